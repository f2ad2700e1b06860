package zstdparse

import (
	"encoding/binary"
	"math/bits"
)

// counts is a table's description: how many of the 1<<log states each symbol has, -1 being
// one state whose next one may be any.
type counts struct {
	log     uint8
	symbols int
	of      [maxSymbols]int16
}

// read parses a description (RFC 8878, 4.1.1) of at most so many symbols and returns its
// length in bytes, 0 if it is corrupt.
func (c *counts) read(src []byte, symbols int, maxLog uint8) int {
	at := 0
	peek := func() uint32 { // at least 25 bits, zeros behind the end
		var four [4]byte
		if i := at >> 3; i < len(src) {
			copy(four[:], src[i:])
		}
		return binary.LittleEndian.Uint32(four[:]) >> (at & 7)
	}
	c.log = uint8(peek()&15) + 5
	if c.log > maxLog {
		return 0
	}
	at = 4
	left, threshold, n := 1<<c.log+1, 1<<c.log, int(c.log)+1
	s := 0
	for left > 1 && s < symbols {
		v, low := int(peek()), 2*threshold-1-left
		if small := v & (threshold - 1); small < low {
			v = small
			at += n - 1
		} else {
			v &= 2*threshold - 1
			if v >= threshold {
				v -= low
			}
			at += n
		}
		v--
		c.of[s] = int16(v)
		s++
		left -= max(v, -v)
		for ; left < threshold; n-- {
			threshold >>= 1
		}
		for again := v == 0; again; {
			zeros := int(peek() & 3)
			at += 2
			if s+zeros > symbols {
				return 0
			}
			clear(c.of[s : s+zeros])
			s += zeros
			again = zeros == 3
		}
	}
	if length := (at + 7) >> 3; left == 1 && length <= len(src) {
		c.symbols = s
		return length
	}
	return 0
}

// spread gives each state its symbol.
func (c *counts) spread(symbol *[maxStates]uint8) {
	size := 1 << c.log
	high := size - 1
	for s, n := range c.of[:c.symbols] {
		if n == -1 {
			symbol[high] = uint8(s)
			high--
		}
	}
	step, at := size>>1+size>>3+3, 0
	for s, n := range c.of[:c.symbols] {
		for range n {
			symbol[at] = uint8(s)
			for at = (at + step) & (size - 1); at > high; {
				at = (at + step) & (size - 1)
			}
		}
	}
}

// entry is a state: what its symbol stands for, and the next state by so many bits.
type entry struct {
	base  uint32
	next  uint16
	bits  uint8
	extra uint8
}

type decodeTable struct {
	log     uint8
	entries [maxStates]entry
}

func (t *decodeTable) build(c *counts, codes *[maxSymbols]code) {
	var symbol [maxStates]uint8
	c.spread(&symbol)
	var next [maxSymbols]uint16
	for s, n := range c.of[:c.symbols] {
		next[s] = uint16(max(n, -n))
	}
	t.log = c.log
	for i, s := range symbol[:1<<c.log] {
		n := c.log + 1 - uint8(bits.Len16(next[s]))
		t.entries[i] = entry{codes[s].base, next[s]<<n - 1<<c.log, n, codes[s].extra}
		next[s]++
	}
}

// rle is the table of one symbol, whose states take no bits.
func (t *decodeTable) rle(c code) {
	t.log = 0
	t.entries[0] = entry{base: c.base, extra: c.extra}
}

// transition is how a state becomes the next one by a symbol (as in libzstd): the number
// of bits that leave is (state + bits) >> 16, the next state next[state >> that + find].
type transition struct {
	bits uint32
	find int32
}

// absent is the bits of a symbol without states: more leave than any state has.
const absent = 0xffff << 16

type encodeTable struct {
	log  uint8
	of   [maxSymbols]transition
	next [maxStates]uint16
}

func (t *encodeTable) build(c *counts) {
	var symbol [maxStates]uint8
	c.spread(&symbol)
	t.log = c.log
	size := 1 << c.log
	var begin [maxSymbols]uint16
	total := 0
	for s := range t.of {
		n := 0
		if s < c.symbols {
			n = int(c.of[s])
		}
		begin[s] = uint16(total)
		switch n {
		case 0:
			t.of[s] = transition{bits: absent}
			continue
		case -1, 1:
			n = 1
			t.of[s].bits = uint32(c.log)<<16 - uint32(size)
		default:
			most := c.log + 1 - uint8(bits.Len16(uint16(n-1)))
			t.of[s].bits = uint32(most)<<16 - uint32(n)<<most
		}
		t.of[s].find = int32(total - n)
		total += n
	}
	for i, s := range symbol[:size] {
		t.next[begin[s]] = uint16(size + i)
		begin[s]++
	}
}

// rle is the table of one symbol.
func (t *encodeTable) rle(symbol uint8) {
	t.log = 0
	for s := range t.of {
		t.of[s] = transition{bits: absent}
	}
	t.of[symbol] = transition{}
	t.next[0] = 0
}

// first is the state that the last symbol, which is coded first, leaves: the smallest one,
// as libzstd chooses it (FSE_initCState2). It reports whether the table has the symbol.
func (t *encodeTable) first(symbol uint8) (uint32, bool) {
	tr := t.of[symbol]
	if tr.bits == absent {
		return 0, false
	}
	n := (tr.bits + 1<<15) >> 16
	state := n<<16 - tr.bits
	return uint32(t.next[int32(state>>n)+tr.find]), true
}

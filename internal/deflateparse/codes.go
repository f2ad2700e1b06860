package deflateparse

import (
	"math/bits"

	"groundswell/internal/deflate/codes"
)

const (
	literalCodes  = firstLength + codes.Lengths
	distanceCodes = codes.Distances
	fixedCodes    = 288 // two of which nothing is said by
	endBlock      = 256
	firstLength   = 257
	longest       = 15 // bits of a code
)

// fixedLengths are of the codes of fixed blocks (3.2.6).
var fixedLengths = func() (l [fixedCodes + distanceCodes]uint8) {
	fill := func(bits uint8, part []uint8) {
		for i := range part {
			part[i] = bits
		}
	}
	fill(8, l[:144])
	fill(9, l[144:256])
	fill(7, l[256:280])
	fill(8, l[280:fixedCodes])
	fill(5, l[fixedCodes:])
	return l
}()

// begins finds the first code of each length of a set, from left to right, and reports
// whether there is room for all of them. A set may leave room: one code of one bit does,
// and none at all.
func begins(lengths []uint8) (counts, first [longest + 1]uint16, ok bool) {
	for _, n := range lengths {
		counts[n]++
	}
	counts[0] = 0
	code := 0
	for n := 1; n <= longest; n++ {
		code = (code + int(counts[n-1])) << 1
		if first[n] = uint16(code); code+int(counts[n]) > 1<<n {
			return counts, first, false
		}
	}
	return counts, first, true
}

// fast is how many bits are looked up at once.
const fast = 10

// decoder finds what the next bits stand for.
type decoder struct {
	table   [1 << fast]uint16 // symbol<<4 | bits; 0: more bits, or none
	counts  [longest + 1]uint16
	symbols [fixedCodes]uint16 // by code, the shortest first
}

func (d *decoder) build(lengths []uint8) bool {
	counts, first, ok := begins(lengths)
	if !ok {
		return false
	}
	d.counts = counts
	clear(d.table[:])
	var at [longest + 1]uint16
	for n := 1; n < longest; n++ {
		at[n+1] = at[n] + counts[n]
	}
	for symbol, n := range lengths {
		if n == 0 {
			continue
		}
		d.symbols[at[n]] = uint16(symbol)
		at[n]++
		code := first[n]
		first[n]++
		if n <= fast {
			for i := int(bits.Reverse16(code) >> (16 - n)); i < len(d.table); i += 1 << n {
				d.table[i] = uint16(symbol)<<4 | uint16(n)
			}
		}
	}
	return true
}

// next is the symbol of the next bits, and how many these are; -1: no symbol.
func (d *decoder) next(acc uint64) (symbol int, n uint) {
	if e := d.table[acc&(1<<fast-1)]; e != 0 {
		return int(e >> 4), uint(e & 15)
	}
	code, first, at := 0, 0, 0
	for n := uint(1); n <= longest; n++ {
		code |= int(acc & 1)
		acc >>= 1
		count := int(d.counts[n])
		if code-first < count {
			return int(d.symbols[at+code-first]), n
		}
		at += count
		first = (first + count) << 1
		code <<= 1
	}
	return -1, 0
}

// encoder has the bits of symbols.
type encoder struct {
	code   [fixedCodes]uint16
	length [fixedCodes]uint8 // 0: there is none
}

func (e *encoder) build(lengths []uint8) bool {
	_, first, ok := begins(lengths)
	clear(e.length[:])
	if !ok {
		return false
	}
	for symbol, n := range lengths {
		if e.length[symbol] = n; n > 0 {
			e.code[symbol] = bits.Reverse16(first[n]) >> (16 - n)
			first[n]++
		}
	}
	return true
}

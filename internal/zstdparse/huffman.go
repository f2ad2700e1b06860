package zstdparse

import "math/bits"

const (
	maxCode   = 11  // bits of a Huffman code (RFC 8878, 4.2.1)
	maxTree   = 129 // bytes of a tree's description
	maxWeight = 6   // accuracy of the table of weights
)

// tree is a Huffman code: the weight of each symbol, 0 where it has none.
type tree struct {
	log     uint8 // length of the longest code
	weights [256]uint8
	start   [maxCode + 2]int // where the symbols of each weight begin in a table of 1<<log
	packed  [pad + 128]byte
}

// read parses a description (RFC 8878, 4.2.1) and returns its length, 0 if it is corrupt.
func (t *tree) read(src []byte) int {
	if len(src) == 0 {
		return 0
	}
	length, n := 1, 0
	if head := int(src[0]); head >= 128 {
		n = head - 127
		length += (n + 1) / 2
		if length > len(src) {
			return 0
		}
		for i := range n {
			t.weights[i] = src[1+i/2] >> (4 * (1 - i&1)) & 15
		}
	} else {
		length += head
		if length > len(src) {
			return 0
		}
		if n = t.unpack(src[1:length]); n == 0 {
			return 0
		}
	}
	clear(t.weights[n:])
	sum := 0
	for _, w := range t.weights[:n] {
		if w > maxCode {
			return 0
		}
		sum += 1 << w >> 1
	}
	t.log = uint8(bits.Len(uint(sum)))
	if sum == 0 || t.log > maxCode {
		return 0
	}
	rest := 1<<t.log - sum // what the last symbol has
	if rest&(rest-1) != 0 {
		return 0
	}
	t.weights[n] = uint8(bits.Len(uint(rest)))
	t.start = [maxCode + 2]int{}
	for _, w := range t.weights[:n+1] {
		if w > 0 {
			t.start[w+1] += 1 << w >> 1
		}
	}
	for w := 2; w < len(t.start); w++ {
		t.start[w] += t.start[w-1]
	}
	return length
}

// unpack decodes weights that are compressed, by two states in turn (RFC 8878, 4.2.1.2),
// and returns how many there are, 0 if they are corrupt.
func (t *tree) unpack(src []byte) int {
	var c counts
	head := c.read(src, maxCode+2, maxWeight)
	if head == 0 {
		return 0
	}
	end := pad + copy(t.packed[pad:], src[head:])
	var in backward
	if !in.open(t.packed[:], pad, end) {
		return 0
	}
	var table decodeTable
	table.build(&c, &plainCodes)
	var states [2]uint32
	states[0] = in.take(c.log)
	states[1] = in.take(c.log)
	if in.bit < in.end {
		return 0
	}
	for n := 0; n < 254; n++ {
		e := table.entries[states[n&1]&(maxStates-1)]
		t.weights[n] = uint8(e.base)
		states[n&1] = uint32(e.next) + in.take(e.bits)
		if in.bit < in.end {
			t.weights[n+1] = uint8(table.entries[states[(n+1)&1]&(maxStates-1)].base)
			return n + 2
		}
	}
	return 0
}

// plainCodes is symbols that stand for themselves.
var plainCodes = func() (c [maxSymbols]code) {
	for i := range c {
		c[i].base = uint32(i)
	}
	return c
}()

// decoder is a tree as a table by the next bits: symbol * 256 + length of its code.
type decoder struct {
	log   uint8
	table [1 << maxCode]uint16
}

func (d *decoder) build(t *tree) {
	d.log = t.log
	start := t.start
	for s, w := range t.weights {
		if w == 0 {
			continue
		}
		e := uint16(s)<<8 | uint16(t.log+1-w)
		n := 1 << w >> 1
		run := d.table[start[w] : start[w]+n]
		for i := range run {
			run[i] = e
		}
		start[w] += n
	}
}

// one decodes a stream to its end and reports whether it makes just dst.
func (d *decoder) one(dst []byte, in *backward) bool {
	shift := 64 - d.log
	for len(dst) >= 5 {
		acc := in.load()
		bit := 0
		for i := range dst[:5] {
			e := d.table[acc>>(shift&63)&(1<<maxCode-1)]
			dst[i] = byte(e >> 8)
			acc <<= e & 15
			bit += int(e & 15)
		}
		if in.bit -= bit; in.bit < in.end {
			return false
		}
		dst = dst[5:]
	}
	for i := range dst {
		e := d.table[in.load()>>(shift&63)&(1<<maxCode-1)]
		dst[i] = byte(e >> 8)
		if in.bit -= int(e & 15); in.bit < in.end {
			return false
		}
	}
	return in.bit == in.end
}

// four decodes four streams that stand one behind the other in buf[from:to], behind the
// table of their lengths (RFC 8878, 3.1.1.3.1.6).
func (d *decoder) four(dst []byte, buf []byte, from, to int) bool {
	part := (len(dst) + 3) / 4
	if to-from < 6 || 3*part > len(dst) {
		return false
	}
	var in [4]backward
	begin := from + 6
	for i := range in {
		end := to
		if i < 3 {
			end = begin + int(buf[from+2*i]) + int(buf[from+2*i+1])<<8
		}
		if end > to || !in[i].open(buf, begin, end) {
			return false
		}
		begin = end
	}
	// All four at once, which a processor does nearly as quickly as one.
	a, b, c, e := dst[:part], dst[part:2*part], dst[2*part:3*part], dst[3*part:]
	done, last := 0, len(e)-5
	shift := (64 - d.log) & 63
	for ; done <= last; done += 5 {
		v0, v1, v2, v3 := in[0].load(), in[1].load(), in[2].load(), in[3].load()
		u0, u1, u2, u3 := 0, 0, 0, 0
		w0, w1, w2, w3 := a[done:done+5], b[done:done+5], c[done:done+5], e[done:done+5]
		for i := range 5 {
			e0 := d.table[v0>>shift&(1<<maxCode-1)]
			e1 := d.table[v1>>shift&(1<<maxCode-1)]
			e2 := d.table[v2>>shift&(1<<maxCode-1)]
			e3 := d.table[v3>>shift&(1<<maxCode-1)]
			w0[i], w1[i], w2[i], w3[i] = byte(e0>>8), byte(e1>>8), byte(e2>>8), byte(e3>>8)
			v0 <<= e0 & 15
			v1 <<= e1 & 15
			v2 <<= e2 & 15
			v3 <<= e3 & 15
			u0 += int(e0 & 15)
			u1 += int(e1 & 15)
			u2 += int(e2 & 15)
			u3 += int(e3 & 15)
		}
		in[0].bit -= u0
		in[1].bit -= u1
		in[2].bit -= u2
		in[3].bit -= u3
		if in[0].bit < in[0].end || in[1].bit < in[1].end || in[2].bit < in[2].end || in[3].bit < in[3].end {
			return false
		}
	}
	return d.one(a[done:], &in[0]) && d.one(b[done:], &in[1]) && d.one(c[done:], &in[2]) && d.one(e[done:], &in[3])
}

// encoder is the code of each symbol, bits << 8 + length, or noCode.
type encoder struct {
	codes [256]uint32
}

const noCode = 1 << 31

func (e *encoder) build(t *tree) {
	start := t.start
	for s, w := range t.weights {
		if w == 0 {
			e.codes[s] = noCode
			continue
		}
		e.codes[s] = uint32(start[w]>>(w-1))<<8 | uint32(t.log+1-w)
		start[w] += 1 << w >> 1
	}
}

// one appends the stream of src and reports whether there is a code for all of it.
func (e *encoder) one(dst, src []byte) ([]byte, bool) {
	out := forward{out: dst}
	seen := uint32(0)
	for ; len(src) >= 4; src = src[:len(src)-4] {
		last := src[len(src)-4:]
		for i := 3; i >= 0; i-- {
			c := e.codes[last[i]]
			seen |= c
			out.acc |= uint64(c>>8&0x7ff) << (out.n & 63)
			out.n += uint8(c)
		}
		out.flush()
	}
	for i := len(src) - 1; i >= 0; i-- {
		c := e.codes[src[i]]
		seen |= c
		out.add(uint64(c>>8), uint8(c))
	}
	out.flush()
	out.close()
	return out.out, seen < noCode
}

// four appends four streams behind the table of their lengths.
func (e *encoder) four(dst, src []byte) ([]byte, bool) {
	part := (len(src) + 3) / 4
	if 3*part > len(src) {
		return dst, false
	}
	head := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0)
	for i := range 4 {
		begin := len(dst)
		end := min((i+1)*part, len(src))
		var ok bool
		if dst, ok = e.one(dst, src[i*part:end]); !ok {
			return dst, false
		}
		length := len(dst) - begin
		if i < 3 {
			if length > 0xffff {
				return dst, false
			}
			dst[head+2*i], dst[head+2*i+1] = byte(length), byte(length>>8)
		}
	}
	return dst, true
}

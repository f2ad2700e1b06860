package zstdparse

import (
	"encoding/binary"
	"math/bits"
)

// pad is how many bytes there must be before a stream that is read backward: loads begin
// up to 8 bytes before the position, which may be some 100 bits before the stream's begin
// when that is noticed.
const pad = 32

// backward reads a bitstream from its end (RFC 8878, 4.1).
type backward struct {
	buf []byte
	bit int // bits of buf before the position
	end int // bits of buf before the stream
}

// open begins at the end of buf[from:to], from being at least pad. It reports whether the
// stream has its final bit.
func (b *backward) open(buf []byte, from, to int) bool {
	if from >= to || buf[to-1] == 0 {
		return false
	}
	b.buf, b.end = buf, 8*from
	b.bit = 8*to - bits.LeadingZeros8(buf[to-1]) - 1
	return true
}

// load returns the bits before the position, the next one highest. 57 of them are right.
func (b *backward) load() uint64 {
	return loadBits(b.buf, b.bit)
}

func loadBits(buf []byte, bit int) uint64 {
	return binary.LittleEndian.Uint64(buf[(bit+7)>>3-8:]) << (uint(-bit) & 7)
}

// top returns the n highest bits, n < 64.
func top(acc uint64, n uint8) uint32 {
	return uint32(acc >> 1 >> (63 - n&63))
}

// take reads n bits, at most 57.
func (b *backward) take(n uint8) uint32 {
	v := top(b.load(), n)
	b.bit -= int(n)
	return v
}

// forward appends a bitstream, which is to be read backward.
type forward struct {
	out []byte
	acc uint64
	n   uint8 // bits in acc
}

// add appends the n lowest bits of v. Between two flushes there is room for 57 bits.
func (f *forward) add(v uint64, n uint8) {
	f.acc |= v & (1<<(n&63) - 1) << (f.n & 63)
	f.n += n
}

func (f *forward) flush() {
	f.out = binary.LittleEndian.AppendUint64(f.out, f.acc)
	f.out = f.out[:len(f.out)-8+int(f.n>>3)]
	f.acc >>= f.n &^ 7
	f.n &= 7
}

// close appends the final bit.
func (f *forward) close() {
	f.add(1, 1)
	f.flush()
	if f.n > 0 {
		f.out = append(f.out, byte(f.acc))
	}
	f.acc, f.n = 0, 0
}

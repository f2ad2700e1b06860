package deflateparse

import (
	"encoding/binary"
	"fmt"
	"io"
)

// input reads bits.
type input struct {
	src   io.ByteReader
	acc   uint64
	n     uint // bits in acc
	short uint // of these, so many at their end are none of the source
	err   error
}

// fill makes sure that there are 48 bits, zeros behind the end of the source.
func (in *input) fill() {
	for in.n < 48 {
		b, err := byte(0), in.err
		if err == nil {
			b, err = in.src.ReadByte()
			in.err = err
		}
		if err != nil {
			in.short += 8
		}
		in.acc |= uint64(b) << in.n
		in.n += 8
	}
}

// skip drops n bits that are there.
func (in *input) skip(n uint) {
	in.acc >>= n
	in.n -= n
}

// take reads n bits that are there, at most 31: an int has no more on small devices.
func (in *input) take(n uint) int {
	v := in.acc & (1<<n - 1)
	in.skip(n)
	return int(v)
}

// read reads n bits, at most 31.
func (in *input) read(n uint) int {
	in.fill()
	return in.take(n)
}

// failed is ErrTruncated, or what the source said, if more was taken than there is.
func (in *input) failed() error {
	switch {
	case in.n >= in.short:
		return nil
	case in.err == io.EOF || in.err == io.ErrUnexpectedEOF:
		return ErrTruncated
	}
	return fmt.Errorf("read deflate stream: %w", in.err)
}

// ahead is how many bytes were read and not taken.
func (in *input) ahead() int64 { return int64(in.n-min(in.short, in.n)) / 8 }

// output appends bits.
type output struct {
	out []byte
	acc uint64
	n   uint // bits in acc
}

// add appends v, which has at most n bits. Between two flushes there is room for 56.
func (o *output) add(v uint64, n uint) {
	o.acc |= v << o.n
	o.n += n
}

// flush leaves at most 7 bits.
func (o *output) flush() {
	o.out = binary.LittleEndian.AppendUint64(o.out, o.acc)
	o.out = o.out[:len(o.out)-8+int(o.n>>3)]
	o.acc >>= o.n &^ 7
	o.n &= 7
}

// align fills a byte that was begun with such bits, and reports whether they fit.
func (o *output) align(padding uint8) bool {
	o.flush()
	room := -o.n & 7
	if padding>>room != 0 {
		return false
	}
	o.add(uint64(padding), room)
	o.flush()
	return true
}

package delta

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Decoder makes segments of a new image. It keeps its buffers and models from one to
// the next: about 4 MB, and twice the largest segment. It is for one goroutine.
type Decoder struct {
	head    *Head
	old     io.ReaderAt
	rebaser *rebaser
	models  models
	frames  zstdFrames
	parts   parts
	order   []int32 // of parts, by where they are in the old image
	piece   piece
	coder   coder
	raw     []byte // the old bytes of the segment, before rebasing
}

// NewDecoder prepares to decode. It reads the headers of the programs in the old
// image, which must be that which the delta was made from: with another one, what is
// decoded is wrong.
func NewDecoder(h *Head, old io.ReaderAt) (*Decoder, error) {
	r, err := newRebaser(h, old)
	if err != nil {
		return nil, err
	}
	return &Decoder{head: h, old: old, rebaser: r}, nil
}

// Segment appends to dst what segment i makes: data are the bytes of the delta from
// its Offset on, Length of them. dst[:0] of the last call's result may be given again.
// It fails with one of this package's errors, or that of the old image's reader.
func (d *Decoder) Segment(dst []byte, i int, data []byte) ([]byte, error) {
	if i < 0 || i >= len(d.head.Segments) {
		return nil, fmt.Errorf("%w: %d", ErrSegment, i)
	}
	s := d.head.Segments[i]
	switch {
	case int64(len(data)) < s.Length || s.Length == 0:
		return nil, fmt.Errorf("segment %d: %w", i, ErrTruncated)
	case int64(len(data)) > s.Length:
		return nil, fmt.Errorf("segment %d: %w", i, ErrTooLarge)
	}
	if len(dst) == 0 && cap(dst) < int(s.Size) {
		dst = make([]byte, 0, d.head.largest())
	}
	dst = slices.Grow(dst, int(s.Size))
	out := dst[len(dst) : len(dst)+int(s.Size)]
	if err := d.segment(out, s, method(data[0]), data[1:]); err != nil {
		return nil, fmt.Errorf("segment %d: %w", i, err)
	}
	return dst[:len(dst)+int(s.Size)], nil
}

func (d *Decoder) segment(out []byte, s Segment, m method, data []byte) error {
	switch m {
	case methodStored:
		return exactly(out, data)
	case methodZstd:
		return d.frameOrStored(out, data)
	case methodDelta, methodMixed, methodLiteral, methodMarked:
	default:
		return fmt.Errorf("%w: method %d", ErrVersion, m)
	}
	if len(data) < 2 {
		return ErrTruncated
	}
	set := binary.LittleEndian.Uint16(data)
	if set>>len(passes) != 0 {
		return fmt.Errorf("%w: pass", ErrVersion)
	}
	data = data[2:]
	if err := d.predict(out, s, set); err != nil {
		return err
	}
	switch m {
	case methodDelta:
		return d.differences(out, data)
	case methodLiteral:
		for _, p := range d.parts.list {
			if p.copied() {
				continue
			}
			n := copy(out[p.start:p.end], data)
			if n < int(p.end-p.start) {
				return ErrTruncated
			}
			data = data[n:]
		}
	}
	d.coder = newDecoder(data)
	c := &d.coder
	d.models.code(c, d.parts.list, out, d.raw, nil, s.Start, m, nil)
	switch {
	case c.overrun():
		return ErrTruncated
	case c.leftOver():
		return fmt.Errorf("%w: %d bytes left over", ErrCorrupt, len(data)-c.at)
	}
	return nil
}

// exactly copies data, which must be as long as out.
func exactly(out, data []byte) error {
	switch {
	case len(data) < len(out):
		return ErrTruncated
	case len(data) > len(out):
		return ErrTooLarge
	}
	copy(out, data)
	return nil
}

// predict fills out with the rebased old bytes of the copies, and d.raw with them as
// they are.
func (d *Decoder) predict(out []byte, s Segment, set uint16) error {
	d.parts.set(d.head, s)
	if cap(d.raw) < len(out) {
		d.raw = make([]byte, d.head.largest())
	}
	d.raw = d.raw[:len(out)]
	d.order = d.order[:0]
	for i, p := range d.parts.list {
		if p.copied() {
			d.order = append(d.order, int32(i))
		}
	}
	// In the order of the old image, which may be dear to jump about in (package expand).
	slices.SortFunc(d.order, func(a, b int32) int { return cmp.Compare(d.parts.list[a].from, d.parts.list[b].from) })
	for _, i := range d.order {
		p := d.parts.list[i]
		raw := d.raw[p.start:p.end]
		if n, err := d.old.ReadAt(raw, int64(p.from)); n < len(raw) {
			return fmt.Errorf("read the old image: %w", err)
		}
	}
	for _, p := range d.parts.list {
		if !p.copied() {
			continue
		}
		raw, o := d.raw[p.start:p.end], out[p.start:p.end]
		copy(o, raw)
		d.rebaser.rebase(&d.piece, set, raw, o, int64(p.from), d.parts.whole(p, s))
	}
	return nil
}

// differences applies a zstd frame of differences, and one of literals. Either may be
// stored.
func (d *Decoder) differences(out, data []byte) error {
	n, k := binary.Uvarint(data)
	if k == 0 {
		return ErrTruncated
	}
	if k < 0 || n > uint64(len(data)-k) {
		return ErrTruncated
	}
	literal := 0
	for _, p := range d.parts.list {
		if !p.copied() {
			literal += int(p.end - p.start)
		}
	}
	diff, literals := d.raw[:len(out)-literal], d.raw[len(out)-literal:] // the old bytes have done their duty
	if err := d.frameOrStored(diff, data[k:k+int(n)]); err != nil {
		return err
	}
	if err := d.frameOrStored(literals, data[k+int(n):]); err != nil {
		return err
	}
	for _, p := range d.parts.list {
		size := int(p.end - p.start)
		if !p.copied() {
			copy(out[p.start:p.end], literals)
			literals = literals[size:]
			continue
		}
		o := out[p.start:p.end]
		for i, v := range diff[:size] {
			o[i] += v
		}
		diff = diff[size:]
	}
	return nil
}

// frameOrStored fills out with what a frame holds, or with the data itself if that is
// as long: an encoder takes a frame only if it is shorter.
func (d *Decoder) frameOrStored(out, data []byte) error {
	if len(data) == len(out) {
		copy(out, data)
		return nil
	}
	got, err := d.frames.decompress(out[:0:len(out)], data)
	if err != nil {
		return err
	}
	return exactly(out, got)
}

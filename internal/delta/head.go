package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ReadHead reads the head of a delta, and nothing behind it. It fails with one of
// this package's errors, or that of the reader.
func ReadHead(r io.Reader) (*Head, error) {
	var fixed [HeadBegin]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return nil, readError(err)
	}
	if string(fixed[:len(magic)]) != magic {
		return nil, ErrCorrupt
	}
	if v := fixed[len(magic)]; v != version && v != versionMarked {
		return nil, fmt.Errorf("%w: version %d", ErrVersion, v)
	}
	size := binary.LittleEndian.Uint32(fixed[len(magic)+1:])
	if size > MaxHead {
		return nil, fmt.Errorf("%w: head of %d bytes", ErrTooLarge, size)
	}
	// It grows with what arrives, not with what was announced.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(size)); err != nil {
		return nil, readError(err)
	}
	h := &Head{Length: int64(len(fixed)) + int64(size)}
	if err := h.parse(body.Bytes()); err != nil {
		return nil, err
	}
	return h, nil
}

// HeadBegin is how many bytes of a delta HeadLength needs.
const HeadBegin = len(magic) + 1 + 4

// HeadLength is how long the head of a delta that begins so is, in bytes.
func HeadLength(begin []byte) (int64, error) {
	if len(begin) < HeadBegin {
		return 0, ErrTruncated
	}
	size := binary.LittleEndian.Uint32(begin[len(magic)+1:])
	if size > MaxHead {
		return 0, fmt.Errorf("%w: head of %d bytes", ErrTooLarge, size)
	}
	return int64(HeadBegin) + int64(size), nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return fmt.Errorf("read the head of a delta: %w", err)
}

// fields reads variable-length numbers and remembers the first failure.
type fields struct {
	rest []byte
	err  error
}

func (f *fields) number(most int64) int64 {
	if f.err != nil {
		return 0
	}
	v, n := binary.Uvarint(f.rest)
	switch {
	case n == 0:
		f.err = ErrTruncated
	case n < 0 || v > uint64(most):
		f.err = ErrTooLarge
	default:
		f.rest = f.rest[n:]
		return int64(v)
	}
	return 0
}

func (h *Head) parse(body []byte) error {
	f := &fields{rest: body}
	h.OldLength = f.number(MaxImage)
	h.NewLength = f.number(MaxImage)
	coder := f.number(255)
	segments := f.number(MaxSegments)
	copies := f.number(MaxCopies)
	spaces := f.number(maxSpaces)
	if f.err != nil {
		return f.err
	}
	if h.Coder = Coder(coder); h.Coder > Mixed {
		return fmt.Errorf("%w: coder %d", ErrVersion, coder)
	}
	// Whatever is announced takes two bytes at least.
	if segments*2+spaces*2 > int64(len(f.rest)) {
		return ErrTruncated
	}
	h.Segments = make([]Segment, segments)
	offset, start := h.Length, int64(0)
	for i := range h.Segments {
		s := Segment{Offset: offset, Start: start, Size: f.number(MaxSegment)}
		s.Length = f.number(s.Size + segmentSlack)
		if f.err == nil && s.Size == 0 {
			f.err = ErrCorrupt
		}
		offset, start = offset+s.Length, start+s.Size
		h.Segments[i] = s
	}
	var at int64
	for range spaces {
		at += f.number(h.OldLength)
		if f.err == nil && at >= h.OldLength {
			f.err = ErrOffset
		}
		s := space{at: int32(at), moved: make([]int32, f.number(maxLoads))}
		for i := range s.moved {
			s.moved[i] = unzigzag(uint32(f.number(math.MaxUint32)))
		}
		h.spaces = append(h.spaces, s)
	}
	if f.err != nil {
		return f.err
	}
	if start != h.NewLength {
		return ErrCorrupt
	}
	return h.parseCopies(f.rest, int(copies))
}

// parseCopies decodes the list of copies: MaxCopies at most, whatever the bytes are.
func (h *Head) parseCopies(data []byte, n int) error {
	if n == 0 {
		if len(data) != 0 {
			return ErrCorrupt
		}
		return nil
	}
	l := newCopyCoder(newDecoder(data))
	for range n {
		v, err := l.code(copied{})
		if err != nil {
			return err
		}
		if l.c.overrun() {
			return ErrTruncated
		}
		if int64(v.end()) > h.NewLength || int64(v.from)+int64(v.size) > h.OldLength {
			return ErrOffset
		}
		h.copies.add(v)
	}
	h.copies.packed = bytes.Clone(h.copies.packed) // without the room to grow
	if l.c.leftOver() {
		return ErrCorrupt
	}
	return nil
}

// marshal is the head as it stands at the beginning of a delta.
func (h *Head) marshal() []byte {
	body := binary.AppendUvarint(nil, uint64(h.OldLength))
	body = binary.AppendUvarint(body, uint64(h.NewLength))
	body = binary.AppendUvarint(body, uint64(h.Coder))
	body = binary.AppendUvarint(body, uint64(len(h.Segments)))
	body = binary.AppendUvarint(body, uint64(h.copies.n))
	body = binary.AppendUvarint(body, uint64(len(h.spaces)))
	for _, s := range h.Segments {
		body = binary.AppendUvarint(body, uint64(s.Size))
		body = binary.AppendUvarint(body, uint64(s.Length))
	}
	var last int32
	for _, s := range h.spaces {
		body = binary.AppendUvarint(body, uint64(s.at-last))
		body = binary.AppendUvarint(body, uint64(len(s.moved)))
		for _, v := range s.moved {
			body = binary.AppendUvarint(body, uint64(zigzag(v)))
		}
		last = s.at
	}
	if h.copies.n > 0 {
		l := newCopyCoder(newEncoder(nil))
		for v := range h.copies.since(-1) {
			if _, err := l.code(v); err != nil {
				panic("delta: the encoder made a copy that lies outside of an image") // checked before
			}
		}
		body = append(body, l.c.finish()...)
	}
	v := byte(version)
	if h.marked {
		v = versionMarked
	}
	out := binary.LittleEndian.AppendUint32(append([]byte(magic), v), uint32(len(body)))
	return append(out, body...)
}

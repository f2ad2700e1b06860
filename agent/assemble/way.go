package assemble

import (
	"bytes"
	"errors"
	"fmt"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/delta"
)

// unit is what is fetched and decoded at once: bytes [from, to) of a way's object, which
// make the blocks [first, end).
type unit struct {
	from, to   int64
	first, end int
	slow       int64 // bytes that take processor time, see Energy
}

func (u unit) cost() int64 { return u.to - u.from }

// way is how blocks can be had from a source. Its errors are about what was sent.
type way interface {
	object() fetch.Object
	// unit is what block i is made by.
	unit(i int) unit
	// decode makes the unit's blocks; what it returns is good until the next call.
	// The blocks have yet to be checked, unless they were.
	decode(u unit, data []byte) ([]byte, error)
}

// full is the artifact as it is.
type full struct {
	sha256 string
	index  block.Index
}

func (w full) object() fetch.Object {
	return fetch.Object{Path: "artifacts/" + w.sha256, Tag: w.sha256, Length: w.index.Length}
}

func (w full) unit(i int) unit {
	b := w.index.Blocks[i]
	return unit{from: b.Offset, to: b.Offset + int64(b.Length), first: i, end: i + 1}
}

func (w full) decode(_ unit, data []byte) ([]byte, error) { return data, nil }

// guessed are packed blocks whose table, which says how long they are, was not fetched yet: a
// delta may do without it.
type guessed struct{ index block.Index }

// guess is how many times shorter packed blocks are taken to be, which few are: a delta that
// is shorter still is taken without a look at the table.
const guess = 8

func (w guessed) object() fetch.Object { return fetch.Object{} }

func (w guessed) unit(i int) unit {
	b := w.index.Blocks[i]
	return unit{from: b.Offset / guess, to: (b.Offset + int64(b.Length)) / guess, first: i, end: i + 1}
}

func (w guessed) decode(unit, []byte) ([]byte, error) { return nil, errors.New("nothing was fetched") }

// packed are blocks compressed one by one.
type packed struct {
	from     fetch.Object
	index    block.Index
	table    block.Table
	unpacker *block.Unpacker
	buffer   []byte
}

func (w *packed) object() fetch.Object { return w.from }

func (w *packed) unit(i int) unit {
	from, to := w.table.Range(i)
	return unit{from: from, to: to, first: i, end: i + 1}
}

func (w *packed) decode(u unit, data []byte) (out []byte, err error) {
	b := w.index.Blocks[u.first]
	if cap(w.buffer) < b.Length {
		w.buffer = make([]byte, 0, b.Length)
	}
	return w.unpacker.Unpack(w.buffer, b, data)
}

// differences are segments of a delta.
type differences struct {
	from     fetch.Object
	head     *delta.Head
	decoder  *delta.Decoder
	segments []segment
	buffer   []byte
}

// segment is a part of the artifact: blocks [first, end).
type segment struct{ first, end int }

// segmentsOf are the segments that every delta of the artifact has.
func segmentsOf(x block.Index) []segment {
	ends := x.Segments()
	out := make([]segment, len(ends))
	first := 0
	for i, end := range ends {
		out[i] = segment{first, x.At(end-1) + 1}
		first = out[i].end
	}
	return out
}

func (w *differences) object() fetch.Object { return w.from }

// segment is the number of the one that block i lies in.
func segmentAt(segments []segment, i int) int {
	low, high := 0, len(segments)
	for high-low > 1 {
		if middle := (low + high) / 2; segments[middle].first <= i {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

func (w *differences) unit(i int) unit {
	n := segmentAt(w.segments, i)
	s := w.head.Segments[n]
	return unit{s.Offset, s.Offset + s.Length, w.segments[n].first, w.segments[n].end, slowly(w.head.Coder, s.Length)}
}

func (w *differences) decode(u unit, data []byte) ([]byte, error) {
	err := guarded(func() error {
		out, err := w.decoder.Segment(w.buffer[:0], segmentAt(w.segments, u.first), data)
		if err == nil {
			w.buffer = out
		}
		return err
	})
	return w.buffer, err
}

// errHead: the head of a delta is not of a delta between the two.
var errHead = errors.New("delta of something else")

// newDifferences is the delta with that head, if it makes the artifact from what runs.
func newDifferences(raw []byte, o fetch.Object, s *seed, index block.Index, segments []segment) (*differences, error) {
	var head *delta.Head
	var decoder *delta.Decoder
	err := guarded(func() (err error) {
		if head, err = delta.ReadHead(bytes.NewReader(raw)); err != nil {
			return err
		}
		if err = matches(head, o, s, index, segments); err != nil {
			return err
		}
		decoder, err = delta.NewDecoder(head, s.data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &differences{from: o, head: head, decoder: decoder, segments: segments}, nil
}

// guarded makes a panic an error. The decoder is given what anybody may have sent; a
// defect in it must cost a delta, and not the agent, which would meet it again at each
// start.
func guarded(decode func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: the decoder panics: %v", delta.ErrCorrupt, p)
		}
	}()
	return decode()
}

func matches(head *delta.Head, o fetch.Object, s *seed, index block.Index, segments []segment) error {
	if head.OldLength != s.Length || head.NewLength != index.Length || len(head.Segments) != len(segments) {
		return fmt.Errorf("%w: %d bytes from %d in %d segments", errHead, head.NewLength, head.OldLength, len(head.Segments))
	}
	for i, have := range head.Segments {
		start := index.Blocks[segments[i].first].Offset
		last := index.Blocks[segments[i].end-1]
		if have.Start != start || have.Start+have.Size != last.Offset+int64(last.Length) {
			return fmt.Errorf("%w: segment %d makes [%d, %d)", errHead, i, have.Start, have.Start+have.Size)
		}
		if have.Offset < 0 || have.Length < 0 || have.Offset+have.Length > o.Length || have.Length > maxUnit {
			return fmt.Errorf("%w: segment %d is %d bytes at %d of %d", errHead, i, have.Length, have.Offset, o.Length)
		}
	}
	return nil
}

// maxUnit is the largest unit in bytes: a segment that nothing was saved by.
const maxUnit = block.MaxSegment + 64<<10

package find

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// Refusals.
var (
	// ErrNothing: there are no streams in both images that could be looked into.
	ErrNothing = errors.New("nothing to look through")
	// ErrMemory: it would take more than it may.
	ErrMemory = errors.New("more memory than allowed")
)

// Options say how to encode.
type Options struct {
	// Ends are where the units end, as delta.Options has it of segments.
	Ends    []int64
	Coder   delta.Coder
	Workers int // zero: one
	// Memory is how many bytes it may take; zero: as many as it needs.
	Memory int64
}

// piece is about how many bytes of the expanded image a segment makes: half of what
// segments make otherwise, for a device has to hold what a unit makes besides.
const piece = 512 << 10

// Encode writes a delta that makes new of old, between their expanded forms. ErrNothing or
// ErrMemory if there is none. It holds both forms besides what delta.Encode does.
func Encode(ctx context.Context, w io.Writer, old, new []byte, o Options) error {
	workers := max(o.Workers, 1)
	most := o.Memory / 8 // see need
	before, err := streams(ctx, old, most)
	if err != nil {
		return err
	}
	after, err := streams(ctx, new, most)
	if err != nil {
		return err
	}
	before, after = changed(old, before, new, after)
	if len(before) == 0 || len(after) == 0 {
		return ErrNothing
	}
	if need := need(old, before, new, after); o.Memory > 0 && need > o.Memory {
		return fmt.Errorf("%w: %d bytes", ErrMemory, need)
	}
	made, err := remake(ctx, new, after, o.Ends, most, workers)
	if err != nil {
		return fmt.Errorf("make streams again: %w", err)
	}
	if len(made) == 0 {
		return ErrNothing
	}
	if before, err = alike(ctx, old, before, made, most); err != nil {
		return err
	}
	if err := fits(old, before, new, made, o.Memory); err != nil {
		return err
	}
	h := &expand.Head{OldLength: int64(len(old)), NewLength: int64(len(new))}
	for _, f := range before {
		h.Old = append(h.Old, f.Stream)
	}
	for _, r := range made {
		h.New = append(h.New, r.Stream)
	}
	expandedOld, err := expanded(old, h.Old)
	if err != nil {
		return err
	}
	expandedNew, err := expanded(new, h.New)
	if err != nil {
		return err
	}
	ends := places(made, o.Ends)
	var inner bytes.Buffer
	err = delta.Encode(ctx, &inner, expandedOld, expandedNew, delta.Options{Ends: pieces(ends), Coder: o.Coder, Workers: workers})
	if err != nil {
		return err
	}
	return write(w, h, inner.Bytes(), o.Ends, ends)
}

// changed are the streams that stand in one image only: what stands in both is copied as
// it is, for making it again costs a device time.
func changed(old []byte, before []found, new []byte, after []found) (b, a []found) {
	inOld, inNew := digests(old, before), digests(new, after)
	in := func(set map[[sha256.Size]byte]bool, image []byte) func(found) bool {
		return func(f found) bool { return set[sha256.Sum256(image[f.At:f.At+f.Length])] }
	}
	return slices.DeleteFunc(before, in(inNew, old)), slices.DeleteFunc(after, in(inOld, new))
}

func digests(image []byte, list []found) map[[sha256.Size]byte]bool {
	out := make(map[[sha256.Size]byte]bool, len(list))
	for _, f := range list {
		out[sha256.Sum256(image[f.At:f.At+f.Length])] = true
	}
	return out
}

// need is how many bytes of memory encoding takes at most.
func need(old []byte, before []found, new []byte, after []found) int64 {
	largest := int64(0)
	for _, f := range after {
		largest = max(largest, f.Size)
	}
	return 192<<20 + 5*size(old, before) + 3*size(new, after) + 2*largest
}

// size is that of an expanded image.
func size(image []byte, list []found) int64 {
	size := int64(len(image))
	for _, f := range list {
		size += f.Size - f.Length
	}
	return size
}

// fits is ErrMemory where parsed forms, which are longer than content, make it too much.
func fits(old []byte, before []found, new []byte, made []remade, memory int64) error {
	after := make([]found, len(made))
	for i, m := range made {
		after[i].Stream = m.Stream
	}
	if size := max(size(old, before), size(new, after)); size > delta.MaxImage {
		return fmt.Errorf("%w: an expanded image of %d bytes", ErrMemory, size)
	}
	if need := need(old, before, new, after); memory > 0 && need > memory {
		return fmt.Errorf("%w: %d bytes", ErrMemory, need)
	}
	return nil
}

// expanded is an image with the contents of its streams in their places.
func expanded(image []byte, streams []expand.Stream) ([]byte, error) {
	size := int64(len(image))
	for _, s := range streams {
		size += s.Size - s.Length
	}
	out := make([]byte, 0, size)
	at := int64(0)
	var reader expand.Reader
	for _, s := range streams {
		out = append(out, image[at:s.At]...)
		at = s.At + s.Length
		content := out[len(out) : len(out)+int(s.Size)]
		if err := again(&reader, image, s, content); err != nil {
			return nil, err
		}
		out = out[:len(out)+int(s.Size)]
	}
	return append(out, image[at:]...), nil
}

// again fills content with what stands for a stream in the expanded image.
func again(r *expand.Reader, image []byte, s expand.Stream, content []byte) error {
	err := r.Reset(s, bytes.NewReader(image[s.At:s.At+s.Length]), bytes.NewReader(content))
	if err == nil {
		_, err = io.ReadFull(r, content)
	}
	if err != nil {
		return fmt.Errorf("read the stream at %d once more: %w", s.At, err)
	}
	return nil
}

// places are where the ends lie in the expanded image: so far on that all before them has
// been made.
func places(made []remade, ends []int64) []int64 {
	out := make([]int64, len(ends))
	grown, k := int64(0), 0
	for i, end := range ends {
		for k < len(made) && made[k].At+made[k].Length <= end {
			grown += made[k].Size - made[k].Length
			k++
		}
		out[i] = end + grown
		if k == len(made) || made[k].At >= end {
			continue
		}
		for _, m := range made[k].marks {
			if m.at == end {
				out[i] = made[k].At + grown + m.content
			}
		}
	}
	return out
}

// pieces are the ends of segments: each end of a unit, and more where they are far apart.
func pieces(units []int64) []int64 {
	var list []int64
	last := int64(0)
	for _, end := range units {
		n := (end - last + piece - 1) / piece
		for i := int64(1); i <= n; i++ {
			list = append(list, last+(end-last)*i/n)
		}
		last = end
	}
	return list
}

// write writes the delta: its head, and the segments of the inner one.
func write(w io.Writer, h *expand.Head, inner []byte, units, ends []int64) error {
	head, err := delta.ReadHead(bytes.NewReader(inner))
	if err != nil {
		return err
	}
	start, at, k := int64(0), head.Length, 0
	for i, end := range units {
		from := at
		for ; k < len(head.Segments) && head.Segments[k].Start+head.Segments[k].Size <= ends[i]; k++ {
			at += head.Segments[k].Length
		}
		h.Units = append(h.Units, expand.Unit{Start: start, Size: end - start, Sum: expand.Sum(inner[from:at])})
		start = end
	}
	raw, err := h.Marshal(inner[:head.Length], ends)
	if err != nil {
		return err
	}
	for _, part := range [][]byte{raw, inner[head.Length:]} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write a delta: %w", err)
		}
	}
	return nil
}

package find

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// ErrNothing: there are no streams in both images that could be looked into.
var ErrNothing = errors.New("nothing to look through")

// Options say how to encode.
type Options struct {
	// Ends are where the units end, as delta.Options has it of segments.
	Ends    []int64
	Coder   delta.Coder
	Workers int // zero: one; fewer, where there is no memory for them
	// Memory is how many bytes it may take besides the images; zero: as many as it needs.
	Memory int64
	// Expanded is called when the old image is read no more, and when the new one is: whoever
	// mapped them into memory may let go of it. Optional.
	Expanded func()
}

// piece is about how many bytes of the expanded image a segment makes: half of what
// segments make otherwise, for a device has to hold what a unit makes besides.
const piece = 512 << 10

// Encode writes a delta that makes new of old, between their expanded forms. ErrNothing or
// delta.ErrMemory if there is none. It holds both forms besides what delta.Encode takes.
func Encode(ctx context.Context, w io.Writer, old, new []byte, o Options) error {
	workers := delta.WorkersWithin(o.Memory, max(o.Workers, 1))
	// Of each image one is read at a time, and what stands parsed is kept meanwhile, in memory
	// that grows: three times of that at most.
	most := o.Memory / 8
	var before, after []found
	err := both(workers, func() (err error) {
		before, err = streams(ctx, old, most)
		return err
	}, func() (err error) {
		after, err = streams(ctx, new, most)
		return err
	})
	if err != nil {
		return err
	}
	before, after = changed(old, before, new, after)
	if len(before) == 0 || len(after) == 0 {
		return ErrNothing
	}
	sizeOld, sizeNew := size(old, bare(before)), size(new, bare(after))
	if err := o.fits(workers, sizeOld, sizeNew); err != nil {
		return err
	}
	made, err := remake(ctx, new, after, o.Ends, most, o.room(workers, sizeNew, sizeOld, 2), o.triers(workers, bare(after)))
	if err != nil {
		return fmt.Errorf("make streams again: %w", err)
	}
	if made = worth(made); len(made) == 0 {
		return ErrNothing
	}
	h := &expand.Head{OldLength: int64(len(old)), NewLength: int64(len(new))}
	for _, r := range made {
		h.New = append(h.New, r.Stream)
	}
	before, err = alike(ctx, old, before, made, most, o.room(workers, sizeOld, size(new, h.New), 1), o.triers(workers, bare(before)))
	if err != nil {
		return err
	}
	h.Old = bare(before)
	// One after the other: what holds the first image may go before the second is read.
	expandedOld, err := o.expanded(old, h.Old)
	if err != nil {
		return err
	}
	expandedNew, err := o.expanded(new, h.New)
	if err != nil {
		return err
	}
	ends := places(made, o.Ends)
	inside := delta.Options{Ends: pieces(ends), Coder: o.Coder, Workers: workers}
	if o.Memory > 0 {
		inside.Memory = o.Memory - int64(len(expandedOld)) - int64(len(expandedNew))
	}
	var inner bytes.Buffer
	err = delta.Encode(ctx, &inner, expandedOld, expandedNew, inside)
	if err != nil {
		return err
	}
	return write(w, h, inner.Bytes(), o.Ends, ends)
}

// both does two things, at once if there are workers for it.
func both(workers int, one, two func() error) error {
	var g errgroup.Group
	g.SetLimit(workers)
	g.Go(one)
	g.Go(two)
	return g.Wait()
}

// bare are the streams without what they stand in.
func bare(list []found) []expand.Stream {
	out := make([]expand.Stream, len(list))
	for i, f := range list {
		out[i] = f.Stream
	}
	return out
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

// expanded is an image with the contents of its streams in their places.
func (o Options) expanded(image []byte, streams []expand.Stream) ([]byte, error) {
	out := make([]byte, 0, size(image, streams))
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
	out = append(out, image[at:]...)
	if o.Expanded != nil {
		o.Expanded()
	}
	return out, nil
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

package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Encode writes a delta that makes new out of old. The same images, ends, coder and memory
// make the same bytes. It holds, besides the images, up to six bytes of memory for each byte
// of old that is sorted (all of one of up to 96 MiB), then two for each of new that is not in
// old as it is (all of it, where old is sorted whole), and 32 MB per worker. ErrMemory if it
// may not.
func Encode(ctx context.Context, w io.Writer, old, new []byte, o Options) error {
	limit := sortLimits
	limit.memory = o.Memory
	return encodeWithin(ctx, w, old, new, o, limit)
}

func encodeWithin(ctx context.Context, w io.Writer, old, new []byte, o Options, limit limits) error {
	h, err := newHead(old, new, o)
	if err != nil {
		return err
	}
	workers := WorkersWithin(limit.memory, o.Workers)
	lists, err := findCopies(ctx, old, new, workers, limit)
	if err != nil {
		return fmt.Errorf("match the images: %w", err)
	}
	var best [][]byte
	for _, copies := range lists {
		parts, err := encodeWith(ctx, h, copies, old, new, workers)
		if errors.Is(err, ErrTooLarge) && best != nil {
			break
		}
		if err != nil {
			return err
		}
		if best == nil || lengthOf(parts) < lengthOf(best) {
			best = parts
		}
	}
	for _, part := range best {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write a delta: %w", err)
		}
	}
	return nil
}

// encodeWith returns the head, by those copies, and the segments.
func encodeWith(ctx context.Context, h *Head, copies []copied, old, new []byte, workers int) (parts [][]byte, err error) {
	h.copies, h.spaces = packCopies(copies), findSpaces(copies, old, new)
	segments, err := encodeSegments(ctx, h, old, new, workers)
	if err != nil {
		return nil, err
	}
	h.marked = false
	for i, s := range segments {
		h.Segments[i].Length = int64(len(s))
		h.marked = h.marked || method(s[0]) == methodMarked
	}
	head := h.marshal()
	if len(head) > MaxHead {
		return nil, fmt.Errorf("%w: head of %d bytes", ErrTooLarge, len(head))
	}
	return append([][]byte{head}, segments...), nil
}

func lengthOf(parts [][]byte) (n int) {
	for _, part := range parts {
		n += len(part)
	}
	return n
}

// newHead checks what is to be encoded and cuts the new image.
func newHead(old, new []byte, o Options) (*Head, error) {
	h := &Head{OldLength: int64(len(old)), NewLength: int64(len(new)), Coder: o.Coder}
	if h.OldLength > MaxImage || h.NewLength > MaxImage {
		return nil, fmt.Errorf("%w: images of %d and %d bytes", ErrTooLarge, len(old), len(new))
	}
	if o.Coder > Mixed {
		return nil, fmt.Errorf("%w: coder %d", ErrVersion, o.Coder)
	}
	ends := o.Ends
	if ends == nil {
		for end := int64(defaultSegment); end < h.NewLength; end += defaultSegment {
			ends = append(ends, end)
		}
		if h.NewLength > 0 {
			ends = append(ends, h.NewLength)
		}
	}
	start := int64(0)
	for _, end := range ends {
		switch {
		case end <= start || end > h.NewLength:
			return nil, fmt.Errorf("%w: segment from %d to %d of %d", ErrOffset, start, end, h.NewLength)
		case end-start > MaxSegment:
			return nil, fmt.Errorf("%w: segment of %d bytes", ErrTooLarge, end-start)
		}
		h.Segments = append(h.Segments, Segment{Start: start, Size: end - start})
		start = end
	}
	if start != h.NewLength {
		return nil, fmt.Errorf("%w: segments end at %d of %d", ErrOffset, start, h.NewLength)
	}
	if len(h.Segments) > MaxSegments {
		return nil, fmt.Errorf("%w: %d segments", ErrTooLarge, len(h.Segments))
	}
	return h, nil
}

// encodeSegments encodes them, some at once.
func encodeSegments(ctx context.Context, h *Head, old, new []byte, workers int) ([][]byte, error) {
	r, err := newRebaser(h, bytes.NewReader(old))
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(h.Segments))
	g, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	g.Go(func() error {
		defer close(next)
		for i := range h.Segments {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(workers, max(len(h.Segments), 1)) {
		e := &segmentEncoder{Decoder: Decoder{head: h, old: bytes.NewReader(old), rebaser: r}}
		g.Go(func() error {
			for i := range next {
				s := h.Segments[i]
				var err error
				if out[i], err = e.encode(s, new[s.Start:s.Start+s.Size]); err != nil {
					return fmt.Errorf("encode segment %d: %w", i, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// findSpaces finds programs in the old image that are in the new one as well, and how
// their addresses moved against their offsets.
func findSpaces(copies []copied, old, new []byte) []space {
	var list []space
	sorted := newAddresses(slices.Values(copies), int64(len(old)))
	for at := 0; len(list) < maxSpaces; {
		k := bytes.Index(old[at:], []byte("\x7fELF"))
		if k < 0 {
			break
		}
		at += k
		before, errOld := loadsAt(bytes.NewReader(old), int64(at), int64(len(old)))
		after, errNew := loadsAt(bytes.NewReader(new), max(int64(at)+sorted.shift(int64(at)), 0), int64(len(new)))
		if errors.Join(errOld, errNew) == nil && len(before) > 0 {
			s := space{at: int32(at)}
			for i := range before {
				if len(after) != len(before) {
					break
				}
				moved := int64(after[i].address) - after[i].offset - int64(before[i].address) + before[i].offset
				s.moved = append(s.moved, int32(moved))
			}
			list = append(list, s)
			for _, l := range before { // programs inside of programs are data of those
				at = max(at, int(l.offset+l.size)-4)
			}
		}
		at += 4
	}
	return list
}

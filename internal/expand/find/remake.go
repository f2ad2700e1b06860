package find

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"groundswell/internal/deflate"
	"groundswell/internal/expand"
)

// step is how much content is given to a writer at once, when it is looked at how far a
// stream has come by how much of its content.
const step = 4 << 10

// mark says that a place in the image has been passed when so much of a stream's content
// was written.
type mark struct{ at, content int64 }

// remade is a stream of which it was tried that it can be made again.
type remade struct {
	expand.Stream
	marks []mark
}

// remake keeps the streams that can be made again, with marks for those of ends (places
// in the image, ascending) that lie in them.
func remake(ctx context.Context, image []byte, list []found, ends []int64, workers int) ([]remade, error) {
	// A way that was right is likely right for the next one.
	out := make([]remade, len(list))
	g, ctx := errgroup.WithContext(ctx)
	share := (len(list) + workers - 1) / max(workers, 1)
	for part := range slices.Chunk(indices(len(list)), max(share, 1)) {
		g.Go(func() error {
			t := &trier{image: image, ends: ends}
			for _, i := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				ok, err := t.try(ctx, list[i])
				if err != nil {
					return err
				}
				if ok {
					out[i] = remade{list[i].Stream, slices.Clone(t.marks)}
					out[i].Way = t.way
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(r remade) bool { return r.Size == 0 }), nil
}

func indices(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

type trier struct {
	image   []byte
	ends    []int64
	stream  expand.Writer
	reader  expand.Reader
	room    expand.Memory
	last    deflate.Way // that was right
	way     deflate.Way // the same, of the stream at hand
	marks   []mark
	content []byte
	made    []byte
}

// ways are all that are tried, the likeliest first.
func ways(last deflate.Way, in container) []deflate.Way {
	var zlib, gzip, other []deflate.Way
	for _, level := range []uint8{9, 6, 1, 8, 7, 5, 4, 3, 2} {
		zlib = append(zlib, deflate.Way{Maker: deflate.Zlib, Level: level, MemLevel: 8})
		gzip = append(gzip, deflate.Way{Maker: deflate.Gzip, Level: level})
		other = append(other, deflate.Way{Maker: deflate.Zlib, Level: level, MemLevel: 9})
	}
	first := []deflate.Way{}
	if last.Valid() {
		first = append(first, last)
	}
	if in == inGzip {
		return slices.Concat(first, gzip, zlib, other)
	}
	return slices.Concat(first, zlib, other, gzip)
}

// try finds the way in which a stream was made.
func (t *trier) try(ctx context.Context, f found) (bool, error) {
	t.content = slices.Grow(t.content[:0], int(f.Size))[:f.Size]
	if err := again(&t.reader, t.image, f.Stream, t.content); err != nil {
		return false, err
	}
	if t.way = (deflate.Way{}); f.Codec != expand.Deflate {
		return t.make(ctx, f, t.way)
	}
	for _, way := range ways(t.last, f.in) {
		ok, err := t.make(ctx, f, way)
		if err != nil {
			return false, err
		}
		if ok {
			t.last, t.way = way, way
			return true, nil
		}
	}
	return false, nil
}

// make tries one.
func (t *trier) make(ctx context.Context, f found, way deflate.Way) (bool, error) {
	f.Way = way
	t.room.Reset()
	if err := t.stream.Reset(f.Stream, &t.room); err != nil {
		return false, err
	}
	want := t.image[f.At : f.At+f.Length]
	t.marks = t.marks[:0]
	k, _ := slices.BinarySearch(t.ends, f.At+1)
	came := 0
	for at := 0; at < len(t.content); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(step, len(t.content)-at)
		var err error
		t.made, err = t.stream.Write(t.made[:0], t.content[at:at+n])
		if at += n; at == len(t.content) && err == nil {
			t.made, err = t.stream.Finish(t.made)
		}
		if err != nil {
			return false, fmt.Errorf("make the stream at %d again: %w", f.At, err)
		}
		if !bytes.HasPrefix(want[came:], t.made) {
			return false, nil
		}
		came += len(t.made)
		for ; k < len(t.ends) && t.ends[k] <= f.At+int64(came) && t.ends[k] < f.At+f.Length; k++ {
			t.marks = append(t.marks, mark{t.ends[k], int64(at)})
		}
	}
	return came == len(want), nil
}

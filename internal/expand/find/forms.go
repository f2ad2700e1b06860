package find

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"groundswell/internal/deflateparse"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// sample is how many bytes of a stream tell by which effort it is taken apart.
const sample = 256 << 10

// forms are what those who try streams of an image have in common of parsed forms.
type forms struct {
	room atomic.Int64 // by how many bytes they may yet be longer than what they stand for

	mu      sync.Mutex // guards what follows
	efforts []uint8    // among which one is chosen, the likeliest first
	effort  uint8      // that was chosen
	told    int64      // bytes of the stream that told so; 0: none did
}

// newForms has room for so many bytes.
func newForms(room int64, efforts []uint8) *forms {
	f := &forms{efforts: efforts, effort: efforts[0]}
	f.room.Store(max(room, 0))
	return f
}

// allEfforts are those by which a stream can be taken apart.
func allEfforts() []uint8 {
	list := make([]uint8, deflateparse.Efforts)
	for i := range list {
		list[i] = uint8(i)
	}
	return list
}

// room is by how many bytes the forms of one image may be longer, when both expanded images
// have such lengths without them and one of them is to grow: of the memory that is left, a
// part is the other image's.
func (o Options) room(workers int, grows, other, parts int64) int64 {
	n := delta.MaxImage - grows
	if o.Memory > 0 {
		n = min(n, (o.Memory-grows-other-delta.LeastMemory(workers))/parts)
	}
	return n
}

// take takes some of the room, or reports that there is not as much.
func (f *forms) take(n int64) bool {
	if f.room.Add(-n) < 0 {
		f.room.Add(n)
		return false
	}
	return true
}

// by is the effort for a stream of some content. One that is short tells little: what a longer
// one tells counts for those that follow. Large ones tell for themselves.
func (f *forms) by(size int64, choose func(among []uint8) uint8) uint8 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.efforts) > 1 && (f.told == 0 || size > 2*f.told && f.told < sample || size >= large) {
		f.effort, f.told = choose(f.efforts), max(size, 1)
	}
	return f.effort
}

// effortsOf are those by which streams were taken apart, beginning with that of most bytes.
func effortsOf(made []remade) []uint8 {
	sizes := map[uint8]int64{}
	var list []uint8
	for _, m := range made {
		if m.Codec != expand.DeflateParsed {
			continue
		}
		if sizes[m.Effort] == 0 {
			list = append(list, m.Effort)
		}
		sizes[m.Effort] += m.Size
	}
	slices.SortStableFunc(list, func(a, b uint8) int { return int(min(max(sizes[b]-sizes[a], -1), 1)) })
	return list
}

// divided does something with each of n numbers, by workers of which each begins once.
func divided(ctx context.Context, n, workers int, begin func() func(ctx context.Context, i int) error) error {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	workers = max(workers, 1)
	g, ctx := errgroup.WithContext(ctx)
	for part := range slices.Chunk(list, max((n+workers-1)/workers, 1)) {
		g.Go(func() error {
			do := begin()
			for _, i := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// worthwhile: one in so many of the streams' bytes is of those that stand parsed, at least. Agents of
// before do not know the format with them, and would have none of the delta.
const worthwhile = 20

// worth leaves out the streams that stand parsed, where they are few.
func worth(made []remade) []remade {
	all, parsed := int64(0), int64(0)
	for _, m := range made {
		all += m.Length
		if m.Codec == expand.DeflateParsed {
			parsed += m.Length
		}
	}
	if parsed*worthwhile >= all {
		return made
	}
	return slices.DeleteFunc(made, func(m remade) bool { return m.Codec == expand.DeflateParsed })
}

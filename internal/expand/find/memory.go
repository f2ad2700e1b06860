package find

import (
	"fmt"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// size is how long an image is when its streams are expanded.
func size(image []byte, streams []expand.Stream) int64 {
	n := int64(len(image))
	for _, s := range streams {
		n += s.Size - s.Length
	}
	return n
}

// fits is delta.ErrMemory where two expanded forms of such lengths leave no room for a delta between
// them, by so many workers, or one of them is too long for it.
func (o Options) fits(workers int, old, new int64) error {
	if long := max(old, new); long > delta.MaxImage {
		return fmt.Errorf("%w: an expanded image of %d bytes", delta.ErrMemory, long)
	}
	if need := old + new + delta.LeastMemory(workers); o.Memory > 0 && need > o.Memory {
		return fmt.Errorf("%w: %d bytes, of %d", delta.ErrMemory, need, o.Memory)
	}
	return nil
}

// triers is how many of the workers may try to make streams again: each holds what stands for
// one, and what of it was passed, in memory that grows.
func (o Options) triers(workers int, streams []expand.Stream) int {
	largest := int64(1)
	for _, s := range streams {
		largest = max(largest, s.Size)
	}
	if o.Memory > 0 {
		workers = min(workers, int(max((o.Memory-delta.LeastMemory(0))/(4*largest), 1)))
	}
	return workers
}

package delta

import (
	"errors"
	"fmt"
	"runtime"
)

// ErrMemory: encoding takes more memory than Options.Memory allows, however little of the
// old image is sorted.
var ErrMemory = errors.New("more memory than allowed")

// What encoding takes besides the images, in bytes.
const (
	baseMemory   = 96 << 20 // the program, and what is not collected yet
	workerMemory = 32 << 20 // models, and a compressor
	// sortedMemory is what each byte takes that is sorted: 4 in the array, 1 in the text if
	// that is not the image itself, at most 1 in the filter.
	sortedMemory = 6
	// madeMemory is what each byte of the new image takes that is not the same in the old
	// one: two deltas are there to choose from.
	madeMemory = 2
)

// limits are how much of an old image is sorted, in bytes.
type limits struct {
	// whole is up to which length one is sorted as it is; of a longer one what is not
	// in the new image already.
	whole int
	// most is how much is sorted at most.
	most int
	// memory is what encoding takes at most besides the images; 0: as much as it needs.
	memory int64
}

// sortLimits are those where memory is not the limit.
var sortLimits = limits{whole: 96 << 20, most: 224 << 20}

// sortable is how many bytes can be sorted, with so many workers.
func (l limits) sortable(workers int) int {
	if l.memory <= 0 {
		return l.most
	}
	return int(min((l.memory-LeastMemory(workers))/sortedMemory, int64(l.most)))
}

// fits is ErrMemory unless so many workers may make so many bytes that are not the same in
// the old image. What was sorted is not needed any more by then.
func (l limits) fits(workers, makes int) error {
	if need := LeastMemory(workers) + madeMemory*int64(makes); l.memory > 0 && need > l.memory {
		return fmt.Errorf("%w: %d bytes, of %d", ErrMemory, need, l.memory)
	}
	return nil
}

// LeastMemory is what encoding takes at least besides the images, with so many workers, in
// bytes; images that have less in common take more.
func LeastMemory(workers int) int64 { return baseMemory + int64(workers)*workerMemory }

// WorkersWithin is how many of so many workers (zero: one per processor) encoding has memory
// for: they may take half of it, and there is one at least.
func WorkersWithin(memory int64, workers int) int {
	if workers <= 0 {
		workers = runtime.NumCPU()
	}
	if memory <= 0 {
		return workers
	}
	return int(max(min((memory/2-baseMemory)/workerMemory, int64(workers)), 1))
}

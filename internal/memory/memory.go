// Package memory gives memory back to the system when a burst is over. Go keeps
// about as much as is in use for what comes next, for good: after the connects of
// a whole fleet that is as much again as its idle sessions need.
package memory

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// every is how often a keeper looks.
	every = 10 * time.Second
	// quiet is the share of the live heap below which what was allocated since the
	// last look counts as nothing going on.
	quiet = 0.1
	// worth is by how much more must be held than after the last time, as a share
	// and in bytes: a collection is not free.
	worth, worthBytes = 0.2, 8 << 20
)

// ReturnWhenQuiet gives memory back after each burst, until ctx ends. It costs a
// garbage collection per burst, when nothing else is going on.
func ReturnWhenQuiet(ctx context.Context) {
	var k keeper
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.look()
		}
	}
}

// keeper remembers what the last looks saw, in bytes.
type keeper struct {
	allocated uint64 // since the process began
	held      uint64 // after memory was given back
}

// look gives memory back if it is time, and says so.
func (k *keeper) look() bool {
	now := read()
	grown := now.allocated - k.allocated
	k.allocated = now.allocated
	if float64(grown) > quiet*float64(now.live) {
		return false
	}
	if now.held < k.held {
		k.held = now.held // Go gave some back itself
	}
	if float64(now.held) < (1+worth)*float64(k.held) || now.held < k.held+worthBytes {
		return false
	}
	debug.FreeOSMemory()
	k.held = read().held
	return true
}

type sizes struct{ allocated, live, held uint64 }

func read() sizes {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return sizes{
		allocated: samples[0].Value.Uint64(), live: samples[1].Value.Uint64(),
		held: samples[2].Value.Uint64() - samples[3].Value.Uint64(),
	}
}

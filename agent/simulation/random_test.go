//go:build !race

package simulation

import (
	"context"
	"flag"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

var (
	seed = flag.Uint64("seed", 0, "run this one only, and print what happens")
	runs = flag.Int("runs", 1000, "how many random runs")
)

const updatesPerRun = 5

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a run leaves little behind
	os.Exit(m.Run())
}

// randomRun runs a seed.
func randomRun(t *testing.T, seed uint64, keep func(string)) (r *run) {
	synctest.Test(t, func(*testing.T) {
		r = newRun(seed)
		r.keep = keep
		r.simulate(func(ctx context.Context) { r.updates(ctx, updatesPerRun) })
	})
	return r
}

func TestOne(t *testing.T) {
	if *seed == 0 {
		t.Skip("no -seed")
	}
	r := randomRun(t, *seed, func(line string) { t.Log(line) })
	if r.failed != nil {
		t.Fatal(r.failed)
	}
}

func TestRandomRuns(t *testing.T) {
	var mu sync.Mutex
	total, bricks := map[string]int{}, 0
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range seeds {
				r := randomRun(t, seed, nil)
				mu.Lock()
				for what, n := range r.counts {
					total[what] += n
				}
				if r.bricked {
					bricks++
				}
				if r.failed != nil {
					t.Error(r.failed)
				}
				mu.Unlock()
			}
		})
	}
	for n := range *runs {
		seeds <- uint64(n) + 1
	}
	close(seeds)
	workers.Wait()
	for _, what := range slices.Sorted(maps.Keys(total)) {
		t.Logf("%8d %s", total[what], what)
	}
	t.Logf("%8d bricks", bricks)
}

//go:build !race

package simulation

import (
	"context"
	"flag"
	"fmt"
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
	all  = flag.Bool("all", false, "the kill matrix for versions of every nature")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // a run leaves little behind
	os.Exit(m.Run())
}

// randomRun runs a seed, of one to maxUpdates-1 updates.
func randomRun(t *testing.T, seed uint64, keep func(string)) (r *run) {
	synctest.Test(t, func(*testing.T) {
		r = newRun(seed, []kind{whole{}, supervised{}}[seed%2])
		r.keep = keep
		r.simulate(func(ctx context.Context) { r.updates(ctx, 1+r.random.IntN(maxUpdates-1)) })
	})
	return r
}

// tally adds up runs.
type tally struct {
	mu     sync.Mutex // guards what follows
	runs   int
	bricks int
	counts map[string]int
	failed []error
}

func (t *tally) add(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.runs++
	for what, n := range r.counts {
		t.counts[what] += n
	}
	if r.bricked {
		t.bricks++
	}
	if r.failed != nil {
		t.failed = append(t.failed, r.failed)
	}
	if t.runs%2000 == 0 {
		fmt.Fprintf(os.Stderr, "%d runs, %d updates, %d bricks\n", t.runs, t.counts["updates"], t.bricks)
	}
}

func (t *tally) print(log func(string, ...any)) {
	for _, what := range slices.Sorted(maps.Keys(t.counts)) {
		log("%9d %s", t.counts[what], what)
	}
	log("%9d bricks, of %d updates in %d runs", t.bricks, t.counts["updates"], t.runs)
}

func TestRandomRuns(t *testing.T) {
	if *seed != 0 {
		if r := randomRun(t, *seed, func(line string) { t.Log(line) }); r.failed != nil {
			t.Fatal(r.failed)
		}
		return
	}
	sum := tally{counts: map[string]int{}}
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range seeds {
				sum.add(randomRun(t, seed, nil))
			}
		})
	}
	for n := range *runs {
		seeds <- uint64(n) + 1
	}
	close(seeds)
	workers.Wait()
	for _, err := range sum.failed {
		t.Errorf("%v (-run TestRandomRuns -seed shows it)", err)
	}
	sum.print(t.Logf)
}

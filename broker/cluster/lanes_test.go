package cluster

import (
	"slices"
	"sync"
	"testing"
)

func TestALaneKeepsItsOrderAndOthersPass(t *testing.T) {
	var l lanes
	var all sync.WaitGroup
	var mu sync.Mutex
	got := map[string][]int{}
	hold := make(chan struct{})
	enter := func(lane string, i int, wait chan struct{}) {
		run := func() {
			if wait != nil {
				<-wait
			}
			mu.Lock()
			defer mu.Unlock()
			got[lane] = append(got[lane], i)
		}
		if l.enter(lane, run) {
			all.Go(func() { l.drain(lane, run) })
		}
	}
	enter("a", 0, hold) // holds up its lane, and no other
	for i := 1; i < 100; i++ {
		enter("a", i, nil)
	}
	passed := make(chan struct{})
	if run := func() { close(passed) }; l.enter("b", run) {
		all.Go(func() { l.drain("b", run) })
	}
	<-passed
	close(hold)
	all.Wait()
	if !slices.IsSorted(got["a"]) || len(got["a"]) != 100 || len(l.waiting) != 0 {
		t.Errorf("got %v, %d lanes are left", got["a"], len(l.waiting))
	}
}

//go:build long

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
)

// TestAThousandDevicesLoseNothingWhileNodesAreKilled: 1,000 devices report 2,000
// times a second in all, while every 15 seconds for two minutes a random node of
// three is killed and started again.
func TestAThousandDevicesLoseNothingWhileNodesAreKilled(t *testing.T) {
	const (
		devices = 1000
		each    = 500 * time.Millisecond
		every   = 15 * time.Second
		rounds  = 8
	)
	all := startCluster(t, "shards: 4")
	f := &fleet{tally: newTally(t), nodes: all}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.report(ctx, devices, each)
	devtest.Eventually(t, 2*time.Minute, "every device to report", func() error {
		f.tally.mu.Lock()
		defer f.tally.mu.Unlock()
		if n := len(f.acknowledged); n < devices {
			return fmt.Errorf("%d have", n)
		}
		return nil
	})
	began, first := time.Now(), f.count()
	for round := range rounds {
		victim := rand.IntN(3)
		t.Logf("round %d: node %d is killed after %d reports", round+1, victim+1, f.count())
		all[victim].Kill()
		before := f.count()
		devtest.Eventually(t, 2*time.Minute, "reports to go on", devtest.True(func() bool { return f.count() > before+devices }))
		all[victim].start()
		all[victim].ready()
		next := began.Add(time.Duration(round+1) * every)
		devtest.Eventually(t, 2*every, "the next round", devtest.True(func() bool { return time.Now().After(next) }))
	}
	took := time.Since(began)
	stop()
	f.working.Wait()
	t.Logf("%d reports acknowledged in %v with %d kills: %.0f a second", f.count()-first, took.Round(time.Second), rounds, float64(f.count()-first)/took.Seconds())
	f.collect(all[0])
}

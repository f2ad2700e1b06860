package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/internal/devstack/simulated"
	"groundswell/topics"
)

// checkInResult is the outcome of an open loop: check-ins begin at their rate,
// however long earlier ones take.
type checkInResult struct {
	Rate             int
	Took             time.Duration
	Total, Connected []time.Duration // sorted, one per check-in
	Failed           int
	FirstError       error
}

func measureCheckIns(ctx context.Context, f *fleet, rate int, during time.Duration) (checkInResult, error) {
	result := checkInResult{Rate: rate}
	var mu sync.Mutex // guards result
	var wg sync.WaitGroup
	began := time.Now()
	for i := range int(during.Seconds() * float64(rate)) {
		// By the clock, not by a ticker: a ticker forgets what it is late with.
		select {
		case <-time.After(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate)))):
		case <-ctx.Done():
			return result, ctx.Err()
		}
		device := f.devices[i%len(f.devices)]
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			took, err := device.CheckIn(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				result.Failed++
				if result.FirstError == nil {
					result.FirstError = err
				}
				return
			}
			result.Total = append(result.Total, took.Total)
			result.Connected = append(result.Connected, took.Connected)
			device.Disconnect()
		})
	}
	wg.Wait()
	result.Took = time.Since(began)
	if len(result.Total) == 0 {
		return result, fmt.Errorf("none succeeded: %w", result.FirstError)
	}
	slices.Sort(result.Total)
	slices.Sort(result.Connected)
	return result, nil
}

// reportResult is how long reports took from the first Publish to the last
// PUBACK, and to the last row in PostgreSQL.
type reportResult struct {
	Reports       int
	Acked, Stored time.Duration
}

func measureReports(ctx context.Context, f *fleet, n int) (reportResult, error) {
	each := max(1, n/len(f.devices))
	want := each * len(f.devices)
	base, err := f.count(ctx, "report")
	if err != nil {
		return reportResult{}, err
	}
	began := time.Now()
	g, sending := errgroup.WithContext(ctx)
	for _, d := range f.devices {
		g.Go(func() error {
			for i := range each {
				if _, err := d.Report(sending, topics.Status{
					Rollout: f.rollout.ID, Revision: f.rollout.Revision, Cohort: cohort, Release: release, State: topics.StateDownloading,
					From: before, Target: version, DownloadedBytes: int64(i), Bytes: int64(each),
				}); err != nil {
					return fmt.Errorf("report of %s: %w", d.ID, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return reportResult{}, err
	}
	result := reportResult{Reports: want, Acked: time.Since(began)}
	for {
		stored, err := f.count(ctx, "report")
		if err != nil {
			return result, err
		}
		if stored-base >= want {
			result.Stored = time.Since(began)
			return result, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return result, fmt.Errorf("%d of %d reports stored: %w", stored-base, want, ctx.Err())
		}
	}
}

// pauseResult is the time from the operator's request to the paused manifest on
// each device, of all pauses together, and the slowest device of each pause.
type pauseResult struct {
	Devices int
	All     []time.Duration // sorted
	Last    []time.Duration // sorted
}

func measurePauses(ctx context.Context, f *fleet, times int) (pauseResult, error) {
	result := pauseResult{Devices: len(f.devices)}
	for range times {
		began := time.Now()
		if _, err := f.stack.Change(ctx, f.rollout.ID, "pause", map[string]string{"reason": "benchmark"}); err != nil {
			return result, err
		}
		arrived, err := f.awaitState(ctx, topics.EntryPaused)
		if err != nil {
			return result, err
		}
		var last time.Duration
		for _, at := range arrived {
			took := at.Sub(began)
			result.All = append(result.All, took)
			last = max(last, took)
		}
		result.Last = append(result.Last, last)
		if _, err := f.stack.Change(ctx, f.rollout.ID, "resume", nil); err != nil {
			return result, err
		}
		if _, err := f.awaitState(ctx, topics.EntryRunning); err != nil {
			return result, err
		}
	}
	slices.Sort(result.All)
	slices.Sort(result.Last)
	return result, nil
}

// awaitState waits until every device holds a manifest with the rollout in a
// state, and returns when each got it.
func (f *fleet) awaitState(ctx context.Context, state topics.EntryState) ([]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	arrived := make([]time.Time, len(f.devices))
	g, ctx := errgroup.WithContext(ctx)
	for i, d := range f.devices {
		g.Go(func() error {
			err := d.Await(ctx, func(d *simulated.Device) bool {
				m, ok := d.Manifest(cohort)
				for _, e := range m.Entries {
					if ok && e.Rollout == f.rollout.ID && e.State == state {
						arrived[i] = m.At
						return true
					}
				}
				return false
			})
			if err != nil {
				return fmt.Errorf("%s waits for %s: %w", d.ID, state, err)
			}
			return nil
		})
	}
	return arrived, g.Wait()
}

// percentile of a sorted list; p from 0 to 100.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*p/100+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

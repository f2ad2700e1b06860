//go:build !race

package simulation

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/disk/simdisk"
	"groundswell/topics"
)

// TestTheSameBytesWaitLongerEachTime: whoever brings a version once more that had to be
// put back, under one rollout after the other, does not have the device boot it all day.
func TestTheSameBytesWaitLongerEachTime(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		r := newRun(7, whole{})
		r.faults.script = func(simdisk.Change) simdisk.Verdict { return simdisk.Verdict{} }
		r.natures[1] = deaf
		var trials []time.Time // the first of each rollout
		boots := 0
		r.simulate(func(ctx context.Context) {
			for _, rollout := range []string{"r-1", "r-2", "r-3", "r-4", "r-5"} {
				entry := r.rollout(1)
				entry.Rollout, entry.Sequence, entry.Attempts = rollout, int64(len(r.manifests)), 1
				r.entries = []topics.Entry{entry}
				r.publish()
				began := time.Now()
				for len(r.ends[attempt{rollout, 1}]) == 0 && r.failed == nil {
					if time.Since(began) > 8*24*time.Hour {
						r.fail("%s has no end", rollout)
					}
					_ = r.sleep(ctx, time.Minute)
				}
				trials = append(trials, r.trialOf(rollout))
			}
			boots = r.device.boots
		})
		if r.failed != nil {
			t.Fatal(r.failed)
		}
		for i := 1; i < len(trials); i++ {
			pause, least := trials[i].Sub(trials[i-1]), time.Hour<<(i-1)
			if pause < least || pause > least+2*time.Hour {
				t.Errorf("trial %d came %v after the one before, not some %v", i+1, pause, least)
			}
		}
		told := map[string]bool{}
		for _, s := range r.reports {
			if s.Reason == "penalty" && s.Until != nil && s.Until.After(s.At) {
				told[s.Rollout] = true
			}
		}
		if len(told) != len(trials)-1 {
			t.Errorf("the wait was reported for %v", told)
		}
		if most := 1 + 2*len(trials); boots > most {
			t.Errorf("it booted %d times", boots)
		}
	})
}

// trialOf is when a rollout's version began its trial.
func (r *run) trialOf(rollout string) time.Time {
	for _, s := range r.reports {
		if s.Rollout == rollout && s.State == topics.StateTrying {
			return s.At
		}
	}
	r.fail("%s was never on trial", rollout)
	return time.Time{}
}

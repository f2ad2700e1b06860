package simulation

import (
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"groundswell/topics"
)

// simulate is a run from the first boot to the last check.
func (r *run) simulate(fleet func(ctx context.Context)) {
	ctx, end := context.WithCancel(context.Background())
	r.publish()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.device.live(ctx)
	}()
	_ = r.sleep(ctx, time.Second) // the device goes first
	fleet(ctx)
	end()
	<-done
	synctest.Wait()
}

// updates are some, one after the other, with chance in all of it.
func (r *run) updates(ctx context.Context, count int) {
	for n := 1; n <= count && r.failed == nil; n++ {
		r.natures[n] = good
		if r.random.IntN(3) == 0 {
			kinds := r.kind.natures()
			r.natures[n] = kinds[r.random.IntN(len(kinds))]
		}
		r.faults.left, r.faults.oneIn = r.random.IntN(9), 20+r.random.IntN(200)
		r.update(ctx, n)
	}
}

// patience is how long an update may take, with all that goes wrong.
const patience = 5 * 24 * time.Hour

// update is one, from its publication to its end, which is checked.
func (r *run) update(ctx context.Context, n int) {
	r.event("update %d %s", n, r.natures[n])
	r.count("updates")
	r.entries = append(r.entries, r.rollout(n))
	r.entries = r.entries[max(0, len(r.entries)-3):]
	r.publish()
	began, cancelled := time.Now(), false
	for r.failed == nil {
		if r.sleep(ctx, time.Minute+time.Duration(r.random.Int64N(int64(4*time.Minute)))) != nil {
			return
		}
		took := time.Since(began)
		if took > 24*time.Hour {
			r.faults.rest()
		}
		if r.faults.oneIn > 0 {
			if r.random.IntN(8) == 0 {
				r.faults.between()
			}
			cancelled = r.meddle(cancelled)
		}
		if r.settled(n, cancelled) {
			break
		}
		if took > patience {
			r.fail("update %d (%s) has no end after %v; %s", n, r.natures[n], took, r.describe())
			return
		}
	}
	r.faults.rest()
	r.conclude(ctx, n)
}

// meddle is what operators do: pause, resume, and now and then cancel.
func (r *run) meddle(cancelled bool) bool {
	entry := &r.entries[len(r.entries)-1]
	switch {
	case cancelled:
		return true
	case entry.State == topics.EntryPaused:
		if r.random.IntN(10) == 0 {
			entry.State, entry.Revision = topics.EntryRunning, entry.Revision+1
			r.publish()
		}
	case r.random.IntN(60) == 0:
		entry.State, entry.Revision = topics.EntryPaused, entry.Revision+1
		r.publish()
	case r.random.IntN(200) == 0:
		r.count("cancelled")
		r.entries = r.entries[:len(r.entries)-1]
		r.publish()
		// So that there is something to meddle with, which nobody cares about.
		if len(r.entries) == 0 {
			r.entries = []topics.Entry{r.rollout(maxUpdates)}
			r.entries[0].From = "<0.0.1"
		}
		return true
	}
	return false
}

// settled reports whether nothing more will come of an update.
func (r *run) settled(n int, cancelled bool) bool {
	if !r.idle() {
		return false
	}
	if cancelled {
		return true
	}
	failed := 0
	for a, ends := range r.ends {
		if a.rollout != fmt.Sprint("r-", n) {
			continue
		}
		if slices.ContainsFunc(ends, func(s topics.Status) bool { return s.State == topics.StateCommitted }) {
			return true
		}
		failed++
	}
	return failed >= topics.DefaultAttempts
}

// idle reports whether the device has nothing to do, and has told everything.
func (r *run) idle() bool {
	d := r.device
	if d.reset || d.disk.Off() || d.alive == nil || !d.alive.complete {
		return false
	}
	record := d.records.Snapshot()
	return len(record.Deployments) == 0 && len(record.Queue) == 0 && d.alive.seen == int64(len(r.manifests))
}

// conclude checks the end of an update, once nothing goes wrong any more.
func (r *run) conclude(ctx context.Context, n int) {
	for began := time.Now(); r.failed == nil && !r.idle(); {
		if time.Since(began) > patience {
			r.brick("not idle again after update %d; %s", n, r.describe())
		}
		if r.sleep(ctx, time.Minute) != nil {
			return
		}
	}
	if r.failed != nil {
		return
	}
	d := r.device
	committed := 0
	failures, commits := map[string]int{}, map[string]int{}
	for a, ends := range r.ends {
		if len(ends) != 1 && !r.forgetful {
			r.fail("%v has %d ends: %v", a, len(ends), ends)
		}
		if ends[0].State == topics.StateCommitted {
			commits[a.rollout]++
		} else {
			failures[a.rollout]++
		}
		if a.rollout == fmt.Sprint("r-", n) && ends[0].State == topics.StateCommitted {
			committed++
			if ends[0].Running != version(n) || ends[0].BootID == ends[0].PreviousBootID {
				r.fail("committed, and runs %s since boot %s (before: %s)", ends[0].Running, ends[0].BootID, ends[0].PreviousBootID)
			}
		}
	}
	for rollout, n := range failures {
		if n > topics.DefaultAttempts*(1+commits[rollout]) {
			r.fail("%d attempts at %s failed", n, rollout)
		}
	}
	for a, s := range r.last {
		if !s.State.Terminal() && s.State != topics.StateWaiting && !r.forgetful {
			r.fail("of %v nothing was heard after %s", a, s.State)
		}
	}
	if err := r.kind.rest(ctx, d); err != nil {
		r.fail("at rest: %v", err)
	}
	switch runs := d.runs == n; {
	case r.forgetful && runs != (committed > 0) && !r.natures[n].may(), !r.forgetful && runs != (committed == 1):
		r.fail("runs %s, and update %d was committed %d times", version(d.runs), n, committed)
	case runs:
		r.count("committed")
	default:
		r.count("not committed")
	}
}

// describe says where the device is.
func (r *run) describe() string {
	d := r.device
	text := fmt.Sprintf("slot %q runs %s, boot %d, at rest %v", d.slot, version(d.runs), d.boots, r.kind.rest(context.Background(), d))
	if d.records != nil {
		record := d.records.Snapshot()
		text += fmt.Sprintf(", deployments %+v, %d reports, alive %v", record.Deployments, len(record.Queue), d.alive != nil)
	}
	return text
}

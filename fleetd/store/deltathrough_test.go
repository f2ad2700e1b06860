package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
)

// twoToMake is a world whose rollout waits for two deltas: two devices run 1.0.0, one 1.0.1.
func twoToMake(t *testing.T) (*world, *store.Store, fleet.Rollout) {
	t.Helper()
	w := newWorld(t)
	for _, v := range []string{"1.0.0", "1.0.1"} {
		w.AddRelease(v)
	}
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 2, "1.0.1": 1})
	s := w.making(50)
	r := w.Running(fleet.PolicySpec{})
	w.planned(s)
	return w, s, r
}

// TestWhatLooksThroughCompressionComesLast: behind all plain deltas, leased as they are, and
// given up after as many attempts; the plain one stays as it is.
func TestWhatLooksThroughCompressionComesLast(t *testing.T) {
	w, s, r := twoToMake(t)
	ctx := t.Context()
	popular, _ := w.claim(s, "one")
	for n, job := range []fleet.DeltaJob{popular, must2(w.claim(s, "two"))} {
		if job.Through {
			t.Fatalf("job %d looks through compression: %+v", n, job)
		}
		result := fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(int64(50 + n)), Later: n == 0, Coder: fleet.CoderZstd, Seconds: 7}
		if err := s.FinishDelta(ctx, job, result); err != nil {
			t.Fatal(err)
		}
	}
	if !w.publishDeltas(s, time.Hour) {
		t.Error("the plain deltas wait for the other")
	}
	for attempt := 1; attempt <= fleet.DeltaAttempts; attempt++ {
		job, ok := w.claim(s, "same")
		if !ok || !job.Through || job.Attempt != attempt || job.Source != popular.Source || job.Target != popular.Target || job.Index != popular.Index ||
			job.Plain != document(50) || job.Coder != fleet.CoderZstd || job.Took != 7 {
			t.Fatalf("attempt %d: %+v, %v", attempt, job, ok)
		}
		if err := s.RenewDelta(ctx, job, time.Minute); err != nil {
			t.Fatal(err)
		}
		if job, ok := w.claim(s, "other"); ok {
			t.Fatalf("leased twice: %+v", job)
		}
		if attempt == 1 { // stopped, through no fault of it
			if err := s.ReturnDelta(ctx, job); err != nil {
				t.Fatal(err)
			}
			if job, _ = w.claim(s, "same"); job.Attempt != 1 {
				t.Fatalf("after it was returned: %+v", job)
			}
		}
		w.Exec(`UPDATE delta SET expanded_until = now() - interval '1 second' WHERE expanded_state = 'running'`) // its maker is gone
		late := job
		if late.Attempt--; attempt > 1 {
			for _, err := range []error{s.RenewDelta(ctx, late, time.Minute), s.FinishDelta(ctx, late, fleet.DeltaResult{State: fleet.DeltaUseless}), s.ReturnDelta(ctx, late)} {
				if !errors.Is(err, fleet.ErrFenced) {
					t.Errorf("from a lease that is another's: %v", err)
				}
			}
		}
	}
	if job, ok := w.claim(s, "one"); ok {
		t.Errorf("tried once more: %+v", job)
	}
	text := w.Exec(`SELECT state, listed, attempts, expanded_state, expanded_attempts FROM delta ORDER BY devices DESC`)
	if got := fmt.Sprint(strings.Fields(text)); got != "[ready|t|1|failed|3 ready|t|1|done|0]" {
		t.Errorf("it is %s", got)
	}
	if now := must(s.Rollout(ctx, r.ID)); now.Deltas[0].Delta != document(50) || !now.Deltas[0].Listed {
		t.Errorf("the rollout says %+v", now.Deltas)
	}
}

// TestWhatDevicesDoNotKnowYetIsNotSaidToBeThere: the rollout says what they have, and the
// index is made again only when no more come, or one has waited.
func TestWhatDevicesDoNotKnowYetIsNotSaidToBeThere(t *testing.T) {
	w, s, r := twoToMake(t)
	ctx := t.Context()
	for n := range int64(2) {
		job, _ := w.claim(s, "one")
		if err := s.FinishDelta(ctx, job, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(50 + n), Later: true}); err != nil {
			t.Fatal(err)
		}
	}
	w.publishDeltas(s, time.Hour)
	five := document(5)
	for n := range 2 {
		if job, ok := w.claim(s, "one"); !ok || !job.Through {
			t.Fatalf("%+v, %v", job, ok)
		} else if err := s.FinishDelta(ctx, job, fleet.DeltaResult{State: fleet.DeltaReady, Expanded: &five}); err != nil {
			t.Fatal(err)
		}
		if now := must(s.Rollout(ctx, r.ID)); now.Deltas[0].Delta != document(50) || !now.Deltas[0].Listed {
			t.Errorf("the rollout says %+v", now.Deltas[0])
		}
		if published := w.publishDeltas(s, time.Hour); published != (n == 1) {
			t.Errorf("published after %d of 2: %v", n+1, published)
		}
	}
	if now := must(s.Rollout(ctx, r.ID)); now.Deltas[0].Delta != five || now.Deltas[1].Delta != five {
		t.Errorf("the rollout says %+v", now.Deltas)
	}
}

// TestADeltaThatIsReadyWhileTheIndexIsPublishedIsListedLater: what is marked as listed and
// is not in the index, no device would ever hear of.
func TestADeltaThatIsReadyWhileTheIndexIsPublishedIsListedLater(t *testing.T) {
	w, s, _ := twoToMake(t)
	ctx := t.Context()
	for n := range int64(2) {
		job, _ := w.claim(s, "one")
		if err := s.FinishDelta(ctx, job, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(50 + n)}); err != nil {
			t.Fatal(err)
		}
	}
	x, ok, err := s.UnlistedDeltas(ctx, time.Hour, time.Hour)
	if err != nil || !ok || len(x.Deltas) != 2 {
		t.Fatalf("%+v, %v, %v", x, ok, err)
	}
	// It is noted, and that is committed when the index was compared already.
	w.exec(`BEGIN`)
	five := document(5)
	w.exec(`UPDATE delta SET expanded_state = 'done', expanded_length = $1, expanded_sha256 = $2 WHERE source = $3`, five.Length, five.SHA256, x.Deltas[0].From)
	published := make(chan error, 1)
	go func() { published <- s.PublishDeltas(ctx, x, document(1000)) }()
	w.awaitBlocked(1)
	w.exec(`COMMIT`)
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	x, ok, err = s.UnlistedDeltas(ctx, 0, 0)
	if err != nil || !ok || len(x.Expanded) != 1 || x.Expanded[0].Document != five {
		t.Errorf("what is listed next: %+v, %v, %v", x, ok, err)
	}
}

func must2(job fleet.DeltaJob, ok bool) fleet.DeltaJob {
	if !ok {
		panic("nothing to make")
	}
	return job
}

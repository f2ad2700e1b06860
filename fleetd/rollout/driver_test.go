package rollout_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/rollout"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// fixture is a world with a driver that ticks when it is told to.
type fixture struct {
	*storetest.World
	*rollout.Driver
	ids []string
}

func newFixture(t *testing.T, devices int) *fixture {
	t.Helper()
	t.Parallel()
	f := &fixture{World: storetest.New(t, nil)}
	f.Driver = f.driver()
	f.ids = f.Seed(devices)
	return f
}

// driver looks at every tick, however long the last look took.
func (f *fixture) driver() *rollout.Driver {
	return rollout.New(rollout.Config{Store: f.Store, Tick: time.Millisecond, TTL: time.Hour, Eager: true, Log: slog.New(slog.DiscardHandler)})
}

func (f *fixture) tick() {
	f.T.Helper()
	if err := f.Tick(f.T.Context()); err != nil {
		f.T.Fatal(err)
	}
}

func (f *fixture) now(id string) fleet.Rollout {
	f.T.Helper()
	return storetest.Must(f.Rollout(f.T.Context(), id))
}

// reached lists the devices in the waves opened so far.
func (f *fixture) reached(r fleet.Rollout) (ids []string) {
	threshold := int64(0)
	for _, w := range r.Waves {
		threshold = max(threshold, w.Threshold)
	}
	for _, id := range f.ids {
		if topics.Position(topics.Bucket(id), r.Offset) < threshold {
			ids = append(ids, id)
		}
	}
	return ids
}

func (f *fixture) report(r fleet.Rollout, state topics.State, ids ...string) {
	f.T.Helper()
	var records []store.UplinkRecord
	for _, id := range ids {
		records = append(records, f.Status(id, r.ID, state, 1, 10))
	}
	f.Apply(records...)
}

func TestGoodReleaseGoesThroughAllWavesAndCompletes(t *testing.T) {
	f := newFixture(t, 200)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(1, 10, 100)})
	for wave, members := range []int{2, 20, 200} {
		f.tick()
		r = f.now(r.ID)
		if w, ok := r.Current(); !ok || w.Index != wave || len(f.reached(r)) != members {
			t.Fatalf("wave %d: %d devices reached, %+v", wave, len(f.reached(r)), r.Waves)
		}
		f.tick() // without outcomes nothing moves
		if again := f.now(r.ID); again.Revision != r.Revision {
			t.Fatalf("wave %d: moved without outcomes: %+v", wave, again)
		}
		f.report(r, topics.StateCommitted, f.reached(r)...)
		f.tick()
	}
	r = f.now(r.ID)
	if r.State != fleet.Completed || !strings.Contains(r.Reason, "200 of 200") || r.FinishedAt.IsZero() {
		t.Fatalf("got %+v", r)
	}
	// Its entry stays, for those who were offline.
	signed, _, err := f.CohortManifest(t.Context(), "all")
	m := storetest.Must(topics.DecodeManifest(signed))
	if err != nil || len(m.Entries) != 1 || m.Entries[0].State != topics.EntryCompleted || len(m.Entries[0].Waves) != 3 {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestFailingCanaryPausesTheRollout(t *testing.T) {
	f := newFixture(t, 40)
	r := f.Running(fleet.PolicySpec{})
	f.report(r, topics.StateRolledBack, f.reached(r)...)
	f.tick()
	got := f.now(r.ID)
	want := "breaker: 1 of 1 devices failed (100 %, limit 2 % in 10m0s)"
	if got.State != fleet.Paused || !strings.HasPrefix(got.Reason, want) || !strings.HasSuffix(got.Reason, "first reason because") {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	if len(f.reached(got)) != 1 {
		t.Errorf("%d devices reached", len(f.reached(got)))
	}
	// Resumed by an operator who knows better, the past does not trip it again.
	storetest.Must(f.ResumeRollout(t.Context(), storetest.Alice, r.ID, got.Revision, ""))
	f.tick()
	if got = f.now(r.ID); got.State != fleet.Running {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestBreakerTripsOnTwoPercentAndNotBelowItsSample(t *testing.T) {
	f := newFixture(t, 400)
	slices := fleet.PolicySpec{Waves: storetest.Waves(100), Breaker: &fleet.BreakerSpec{Slices: []string{"none"}}}
	r := f.Running(slices)
	f.report(r, topics.StateCommitted, f.ids[:40]...)
	f.report(r, topics.StateFailed, f.ids[40:49]...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Fatalf("9 of 49 failed, sample 50: %s: %s", got.State, got.Reason)
	}
	f.report(r, topics.StateCommitted, f.ids[49])
	f.tick()
	got := f.now(r.ID)
	if got.State != fleet.Paused || !strings.HasPrefix(got.Reason, "breaker: 9 of 50 devices failed (18 %") {
		t.Fatalf("9 of 50 failed: %s: %s", got.State, got.Reason)
	}
	// Exactly 2 % is allowed.
	exact := f.Running(slices)
	f.report(exact, topics.StateCommitted, f.ids[:98]...)
	f.report(exact, topics.StateFailed, f.ids[98:100]...)
	f.tick()
	if got := f.now(exact.ID); got.State != fleet.Running {
		t.Errorf("2 of 100 failed: %s: %s", got.State, got.Reason)
	}
	f.report(exact, topics.StateFailed, f.ids[100])
	f.tick()
	if got := f.now(exact.ID); got.State != fleet.Paused {
		t.Errorf("3 of 101 failed: %s", got.State)
	}
}

func TestFailuresOutsideTheWindowAreForgottenForNewerOutcomes(t *testing.T) {
	f := newFixture(t, 200)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.report(r, topics.StateFailed, f.ids[:60]...)
	f.Exec(`UPDATE rollout SET started_at = started_at - interval '1 hour'`)
	f.Exec(`UPDATE rollout_device SET outcome_at = outcome_at - interval '11 minutes'`)
	f.report(r, topics.StateCommitted, f.ids[60:110]...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
	f.Exec(`UPDATE rollout_device SET outcome_at = now()`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Paused {
		t.Errorf("got %s", got.State)
	}
}

func TestFailuresThatTrickleInTrip(t *testing.T) {
	f := newFixture(t, 200)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.Exec(`UPDATE rollout SET started_at = started_at - interval '100 hours'`)
	f.report(r, topics.StateCommitted, f.ids[:40]...)
	f.report(r, topics.StateFailed, f.ids[40:49]...)
	// One each hour: the window never holds more than one.
	f.Exec(`UPDATE rollout_device SET outcome_at = now() - right(device, 5)::integer * interval '1 hour'`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Fatalf("9 of 49 failed, sample 50: %s: %s", got.State, got.Reason)
	}
	f.report(r, topics.StateCommitted, f.ids[49])
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Paused || !strings.HasPrefix(got.Reason, "breaker: 9 of 50 devices failed (18 %, limit 2 % of the newest outcomes)") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestFailuresTakeTheEndForNoSuccess(t *testing.T) {
	f := newFixture(t, 40)
	hundred := 100.0
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100), Breaker: &fleet.BreakerSpec{Percent: &hundred}})
	f.report(r, topics.StateCommitted, f.ids[:24]...)
	f.report(r, topics.StateFailed, f.ids[24:]...)
	f.tick()
	got := f.now(r.ID)
	if got.State != fleet.Paused || got.Reason != "gate: 60 % of 40 devices succeeded, 95 % needed" {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	// An operator who resumes it accepts that.
	storetest.Must(f.ResumeRollout(t.Context(), storetest.Alice, r.ID, got.Revision, ""))
	f.tick()
	if got = f.now(r.ID); got.State != fleet.Completed {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestLateDevicesTripACompletedRollout(t *testing.T) {
	f := newFixture(t, 30)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.Exec(`UPDATE rollout SET started_at = started_at - interval '15 days'`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Completed {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	f.report(r, topics.StateRolledBack, f.ids...)
	f.tick()
	got := f.now(r.ID)
	if got.State != fleet.Paused || !strings.HasPrefix(got.Reason, "breaker: 30 of 30") || !got.FinishedAt.IsZero() {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	storetest.Must(f.ResumeRollout(t.Context(), storetest.Alice, r.ID, got.Revision, ""))
	f.tick()
	if got = f.now(r.ID); got.State != fleet.Completed || got.FinishedAt.IsZero() {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

// With the default slices.
func TestOneRareDeviceDoesNotStopABigRollout(t *testing.T) {
	f := newFixture(t, 100)
	f.AddRelease("1.1.0", "m1", "m2")
	f.Apply(f.Beat("odd", "m2", "1.0.0", 1, 1))
	storetest.Must(f.CreateCohort(t.Context(), storetest.Alice, fleet.CohortSpec{Name: "all", Selector: "model"}))
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.report(r, topics.StateCommitted, f.ids[:60]...)
	s := f.Status("odd", r.ID, topics.StateFailed, 1, 10)
	s.Model = "m2"
	f.Apply(s)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Fatalf("1 of 61 failed, the only m2: %s: %s", got.State, got.Reason)
	}
	f.report(r, topics.StateFailed, f.ids[60])
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Paused || !strings.HasPrefix(got.Reason, "breaker: 2 of 62 devices failed (3.226 %, limit 2 %") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestFailingModelIsNotHiddenInTheWhole(t *testing.T) {
	f := newFixture(t, 300)
	f.AddRelease("1.1.0", "m1", "m2")
	var others []string
	var records []store.UplinkRecord
	for i := range 5 {
		others = append(others, fmt.Sprintf("odd-%d", i))
		records = append(records, f.Beat(others[i], "m2", "1.0.0", 1, 1))
	}
	f.Apply(records...)
	storetest.Must(f.CreateCohort(t.Context(), storetest.Alice, fleet.CohortSpec{Name: "all", Selector: "model"}))
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.report(r, topics.StateCommitted, f.ids...)
	for i, id := range others {
		state := topics.StateCommitted
		if i < 2 {
			state = topics.StateFailed // 2 of 305 are 0.7 %, 2 of 5 are 40 %
		}
		s := f.Status(id, r.ID, state, 1, 10)
		s.Model = "m2"
		f.Apply(s)
	}
	f.tick()
	got := f.now(r.ID)
	if got.State != fleet.Paused || !strings.Contains(got.Reason, "2 of 5 devices failed (40 %") || !strings.Contains(got.Reason, "slice model=m2") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestSilenceCountsAsFailure(t *testing.T) {
	f := newFixture(t, 10)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(10, 100)})
	f.report(r, topics.StateTrying, f.reached(r)...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	f.Exec(`UPDATE rollout_device SET reported_at = reported_at - interval '16 minutes'`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Paused || !strings.Contains(got.Reason, "first reason silent") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestNextWaveWaitsForTheSoakTime(t *testing.T) {
	f := newFixture(t, 10)
	waves := storetest.Waves(10, 100)
	soak := fleet.Duration(time.Hour)
	waves[0].Soak = &soak
	r := f.Running(fleet.PolicySpec{Waves: waves})
	f.report(r, topics.StateCommitted, f.reached(r)...)
	f.tick()
	f.tick()
	got := f.now(r.ID)
	if w, _ := got.Current(); w.Index != 0 || w.SampleAt.IsZero() || !strings.Contains(w.Gate, "soak time until") {
		t.Fatalf("got %+v", got.Waves)
	}
	f.Exec(`UPDATE rollout_wave SET sample_at = sample_at - interval '1 hour'`)
	f.tick()
	got = f.now(r.ID)
	if w, _ := got.Current(); w.Index != 1 {
		t.Errorf("got %+v", got.Waves)
	}
}

func TestDeadlineCompletesWithoutTheMissing(t *testing.T) {
	f := newFixture(t, 10)
	r := f.Running(fleet.PolicySpec{})
	f.Exec(`UPDATE rollout SET started_at = started_at - interval '15 days'`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Completed || !strings.Contains(got.Reason, "deadline") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestScheduledRolloutStartsByItself(t *testing.T) {
	f := newFixture(t, 10)
	first := f.Running(fleet.PolicySpec{})
	storetest.Must(f.CancelRollout(t.Context(), storetest.Alice, first.ID, first.Revision, ""))
	r := storetest.Must(f.CreateRollout(t.Context(), storetest.Alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, StartAt: time.Now().Add(time.Hour)}))
	r = storetest.Must(f.StartRollout(t.Context(), storetest.Alice, r.ID, 1, ""))
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Scheduled || r.State != fleet.Scheduled {
		t.Fatalf("got %s", got.State)
	}
	f.Exec(`UPDATE rollout SET start_at = now() WHERE state = 'scheduled'`)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running || got.StartedAt.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestOnlyTheHolderOfTheLeaseDrives(t *testing.T) {
	f := newFixture(t, 10)
	r := f.Running(fleet.PolicySpec{})
	other := f.driver()
	f.tick()
	f.report(r, topics.StateFailed, f.reached(r)...)
	if err := other.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.now(r.ID); got.State != fleet.Running {
		t.Fatalf("a driver without the lease paused it: %s", got.Reason)
	}
	// The holder is gone; its lease runs out.
	f.Exec(`UPDATE lease SET expires_at = now()`)
	if err := other.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.now(r.ID); got.State != fleet.Paused {
		t.Errorf("got %s", got.State)
	}
}

func TestRunLetsGoOfTheLeaseAtTheEnd(t *testing.T) {
	f := newFixture(t, 1)
	for range 2 { // the second gets the lease at once, though its time is an hour
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		d := f.driver()
		before := strings.TrimSpace(f.Exec(`SELECT coalesce(max(term), 0) FROM lease`))
		go func() { done <- d.Run(ctx) }()
		devtest.Eventually(t, 0, "the lease", devtest.True(func() bool {
			return strings.TrimSpace(f.Exec(`SELECT coalesce(max(term), 0) FROM lease`)) != before
		}))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

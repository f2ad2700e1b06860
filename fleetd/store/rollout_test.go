package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

func TestSecondPauseIsStale(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			_, errs[i] = w.PauseRollout(t.Context(), fleet.Actor{Name: fmt.Sprint("operator-", i)}, r.ID, r.Revision, "stop")
		})
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, fleet.ErrStale) {
			t.Errorf("got %v, want ErrStale", err)
		}
	}
	got := must(w.Rollout(t.Context(), r.ID))
	if won != 1 || got.State != fleet.Paused || got.Revision != r.Revision+1 || w.manifest("all").Entries[0].State != topics.EntryPaused {
		t.Fatalf("%d won; %+v", won, got)
	}
	if n := w.number(`SELECT count(*) FROM audit WHERE action = 'rollout.pause'`); n != 1 {
		t.Errorf("%d audit rows", n)
	}
	// Somebody resumed meanwhile: who saw it before must look again, though it
	// runs as it did then.
	got = must(w.ResumeRollout(t.Context(), alice, r.ID, got.Revision, ""))
	if _, err := w.PauseRollout(t.Context(), alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
	if again := must(w.Rollout(t.Context(), r.ID)); again.Revision != got.Revision || again.State != fleet.Running {
		t.Errorf("got %+v", again)
	}
}

func TestTransitionsAreGuarded(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	ctx := t.Context()
	if _, err := w.StartRollout(ctx, alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrTransition) {
		t.Errorf("start of a running one: %v", err)
	}
	if _, err := w.ResumeRollout(ctx, alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrTransition) {
		t.Errorf("resume of a running one: %v", err)
	}
	if _, err := w.UpdateRollout(ctx, alice, r.ID, r.Revision, r.RolloutSpec); !errors.Is(err, fleet.ErrTransition) {
		t.Errorf("change of a running one: %v", err)
	}
	if _, err := w.PauseRollout(ctx, alice, "r-none", 1, ""); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("pause of none: %v", err)
	}
	r = must(w.PauseRollout(ctx, alice, r.ID, r.Revision, "lunch"))
	if _, err := w.StartRollout(ctx, alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrTransition) {
		t.Errorf("start of a paused one: %v", err)
	}
	r = must(w.ResumeRollout(ctx, alice, r.ID, r.Revision, "back from lunch"))
	if r.State != fleet.Running || r.Reason != "back from lunch" || r.ResumedAt.IsZero() {
		t.Errorf("got %+v", r)
	}
	r = must(w.CancelRollout(ctx, alice, r.ID, r.Revision, "no"))
	if r.State != fleet.Cancelled || len(w.manifest("all").Entries) != 0 {
		t.Errorf("got %+v, %+v", r, w.manifest("all"))
	}
	if _, err := w.CancelRollout(ctx, alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrTransition) {
		t.Errorf("second cancel: %v", err)
	}
	events, _, err := w.RolloutEvents(ctx, r.ID, store.Page{})
	var actions []string
	for _, e := range events {
		actions = append(actions, e.Action)
	}
	want := []string{"rollout.create", "rollout.start", "rollout.pause", "rollout.resume", "rollout.cancel"}
	if err != nil || !slices.Equal(actions, want) {
		t.Errorf("got %v, %v", actions, err)
	}
}

func TestManifestVersionOnlyGrows(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	last := w.manifest("all").Version
	if last < time.Now().Unix()-60 {
		t.Fatalf("version %d is not of this time", last)
	}
	// Ahead of the clock, as after a burst of changes or with a clock that
	// went back.
	w.exec(`UPDATE manifest SET version = version + 100000`)
	last += 100000
	for range 3 {
		r = must(w.PauseRollout(t.Context(), alice, r.ID, r.Revision, ""))
		r = must(w.ResumeRollout(t.Context(), alice, r.ID, r.Revision, ""))
		if v := w.manifest("all").Version; v != last+2 {
			t.Fatalf("version %d after %d", v, last)
		}
		last += 2
	}
}

func TestChangesOfOneCohortAtOnceAllStandInItsManifest(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	w.Running(fleet.PolicySpec{})
	var drafts []fleet.Rollout
	for range 4 {
		drafts = append(drafts, must(w.CreateRollout(t.Context(), alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}})))
	}
	// Held up where they store the manifest, all of them are under way before
	// the first commits.
	w.exec(`BEGIN; SELECT FROM manifest WHERE cohort = 'all' FOR UPDATE`)
	var all sync.WaitGroup
	for _, d := range drafts {
		all.Go(func() {
			if _, err := w.StartRollout(t.Context(), alice, d.ID, d.Revision, ""); err != nil {
				t.Error(err)
			}
		})
	}
	w.awaitBlocked(len(drafts))
	w.exec(`COMMIT`)
	all.Wait()
	if n := len(w.manifest("all").Entries); n != len(drafts)+1 {
		t.Errorf("%d entries, want %d", n, len(drafts)+1)
	}
}

func TestManifestThatGrowsTooLargeIsRefused(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	w.Running(fleet.PolicySpec{})
	for n := 2; ; n++ {
		d := must(w.CreateRollout(t.Context(), alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}}))
		_, err := w.StartRollout(t.Context(), alice, d.ID, d.Revision, "")
		if err == nil {
			if n > 100 {
				t.Fatal("100 rollouts fit into 16 KiB")
			}
			continue
		}
		if !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "16384") {
			t.Fatalf("got %v", err)
		}
		if got := must(w.Rollout(t.Context(), d.ID)); got.State != fleet.Draft || len(w.manifest("all").Entries) != n-1 {
			t.Fatalf("the refused change left traces: %s, %d entries", got.State, len(w.manifest("all").Entries))
		}
		return
	}
}

func TestWavesFollowTheMembersPositions(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(1200)
	r := w.Running(fleet.PolicySpec{Waves: waves(0.1, 1, 10, 50, 100)})
	lease := must(w.AcquireLease(t.Context(), "driver", "t", time.Hour))
	for i, want := range []int{2, 12, 120, 600, 1200} {
		if i > 0 {
			r = must(w.OpenNextWave(t.Context(), lease, r.ID, r.Revision, ""))
		}
		current, ok := r.Current()
		if !ok || current.Index != i {
			t.Fatalf("wave %d is not open: %+v", i, r.Waves)
		}
		in := 0
		for _, id := range ids {
			if topics.Position(topics.Bucket(id), r.Offset) < current.Threshold {
				in++
			}
		}
		if in != want {
			t.Errorf("wave %d reaches %d devices, want %d", i, in, want)
		}
		entry := w.manifest("all").Entries[0]
		if len(entry.Waves) != i+1 || entry.Waves[i].Threshold != current.Threshold || entry.Revision != r.Revision {
			t.Errorf("manifest says %+v", entry)
		}
	}
	full := must(w.Rollout(t.Context(), r.ID))
	for i, want := range []int64{2, 10, 108, 480, 600} {
		if full.Waves[i].Members != want {
			t.Errorf("wave %d has %d members, want %d", i, full.Waves[i].Members, want)
		}
	}
}

func TestWavesThatAddNobodyPassAtOnce(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(2)
	r := w.Running(fleet.PolicySpec{Waves: waves(0.1, 1, 10, 50, 100)})
	w.Apply(w.Status(ids[0], r.ID, topics.StateCommitted, 1, 3), w.Status(ids[1], r.ID, topics.StateCommitted, 1, 3))
	lease := must(w.AcquireLease(t.Context(), "driver", "t", time.Hour))
	r = must(w.OpenNextWave(t.Context(), lease, r.ID, r.Revision, ""))
	current, _ := r.Current()
	if current.Index != 4 || current.Threshold != topics.Buckets {
		t.Fatalf("got %+v", r.Waves)
	}
	for _, v := range r.Waves[:4] {
		if v.State != fleet.WavePassed || v.ClosedAt.IsZero() {
			t.Errorf("got %+v", v)
		}
	}
}

func TestDevicesThatTheReleaseDoesNotConcernAreNotCounted(t *testing.T) {
	w := newWorld(t)
	w.Seed(4)
	w.Apply(w.Beat("new-1", "m1", "1.1.0", 1, 1), w.Beat("new-2", "m1", "2.0.0", 1, 1), w.Beat("other", "m2", "1.0.0", 1, 1))
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model"}))
	r := w.Running(fleet.PolicySpec{Waves: waves(100)})
	got := must(w.Rollout(t.Context(), r.ID))
	if got.Waves[0].Members != 4 {
		t.Errorf("%d members, want 4: %+v", got.Waves[0].Members, got.Waves[0].Counts)
	}
}

func TestCanaryCohortComesFirstAndIsNotCountedTwice(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(10)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "ours", Devices: ids[:2]}))
	w.AddRelease("1.1.0")
	r := must(w.CreateRollout(ctx, alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, CanaryCohort: "ours",
		PolicySpec: fleet.PolicySpec{Waves: waves(50, 100)}}))
	r = must(w.StartRollout(ctx, alice, r.ID, 1, ""))
	if got := w.manifest("all").Entries[0].Waves; len(got) != 0 {
		t.Errorf("the others' manifest opens %+v", got)
	}
	if got := w.manifest("ours").Entries[0].Waves; len(got) != 1 || got[0].Threshold != topics.Buckets {
		t.Errorf("the canaries' manifest opens %+v", got)
	}
	lease := must(w.AcquireLease(ctx, "driver", "t", time.Hour))
	r = must(w.OpenNextWave(ctx, lease, r.ID, r.Revision, ""))
	got := must(w.Rollout(ctx, r.ID))
	if got.Waves[0].Members != 2 || got.Waves[1].Members != 4 || len(w.manifest("ours").Entries[0].Waves) != 1 || len(w.manifest("all").Entries[0].Waves) != 1 {
		t.Errorf("got %+v", got.Waves)
	}
}

func TestRevertReplacesTheRolloutInTheManifest(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	w.AddRelease("1.0.0")
	r := w.Running(fleet.PolicySpec{Windows: []topics.Window{{Start: "22:00", End: "05:00"}}, DownloadWindows: []topics.Window{{Start: "12:00", End: "13:00"}}})
	ctx := t.Context()
	for pointer, to := range map[string]string{"/to": "1.1.0", "/to ": "0.9.0", "/to  ": "x"} {
		_, err := w.RevertRollout(ctx, alice, r.ID, r.Revision, store.RevertSpec{To: to})
		wantField(t, err, strings.TrimSpace(pointer))
	}
	if got := must(w.Rollout(ctx, r.ID)); got.Revision != r.Revision || got.State != fleet.Running {
		t.Fatalf("a refused revert left traces: %+v", got)
	}
	back := must(w.RevertRollout(ctx, alice, r.ID, r.Revision, store.RevertSpec{To: "1.0.0"}))
	m := w.manifest("all")
	if len(m.Entries) != 1 || m.Entries[0].Rollout != back.ID || m.Entries[0].Kind != topics.EntryRevert || m.Entries[0].From != "=1.1.0" ||
		m.Entries[0].Version != "1.0.0" || len(m.Entries[0].Windows) != 1 || len(m.Entries[0].DownloadWindows) != 1 || m.Entries[0].Sequence <= r.Sequence {
		t.Fatalf("got %+v", m.Entries)
	}
	if got := must(w.Rollout(ctx, r.ID)); got.State != fleet.Reverting {
		t.Errorf("the reverted one is %s", got.State)
	}
	// To cancel it alone would leave its revert running.
	bad := must(w.Rollout(ctx, r.ID))
	if _, err := w.CancelRollout(ctx, alice, r.ID, bad.Revision, ""); !errors.Is(err, fleet.ErrTransition) || !strings.Contains(err.Error(), "cancel the rollout that reverts it") {
		t.Errorf("cancelled while reverting: %v", err)
	}
	lease := must(w.AcquireLease(ctx, "driver", "t", time.Hour))
	must(w.CompleteRollout(ctx, lease, back.ID, back.Revision, "done"))
	if got := must(w.Rollout(ctx, r.ID)); got.State != fleet.Reverted {
		t.Errorf("the reverted one is %s", got.State)
	}
}

func TestCancelledRevertLeavesNothingReverting(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	w.AddRelease("1.0.0")
	r := w.Running(fleet.PolicySpec{})
	back := must(w.RevertRollout(t.Context(), alice, r.ID, r.Revision, store.RevertSpec{To: "1.0.0"}))
	must(w.CancelRollout(t.Context(), alice, back.ID, back.Revision, "not so bad"))
	if got := must(w.Rollout(t.Context(), r.ID)); got.State != fleet.Cancelled || !strings.HasPrefix(got.Reason, back.ID) || len(w.manifest("all").Entries) != 0 {
		t.Errorf("got %s: %s, %+v", got.State, got.Reason, w.manifest("all").Entries)
	}
}

// Why a rollout was started or resumed stands in it until its state changes,
// also when waves open meanwhile, and in the audit trail.
func TestReasonsOfStartAndResumeAreKept(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	ctx := t.Context()
	first := w.Running(fleet.PolicySpec{})
	spec := first.RolloutSpec
	spec.StartAt = time.Now().Add(time.Hour)
	r := must(w.CreateRollout(ctx, alice, spec))
	r = must(w.StartRollout(ctx, alice, r.ID, r.Revision, "change 17"))
	if r.State != fleet.Scheduled || r.Reason != "change 17" {
		t.Errorf("got %s: %q", r.State, r.Reason)
	}
	lease := must(w.AcquireLease(ctx, "driver", "t", time.Hour))
	r = must(w.StartScheduled(ctx, lease, r.ID, r.Revision))
	r = must(w.OpenNextWave(ctx, lease, r.ID, r.Revision, "1 of 1"))
	if r.State != fleet.Running || r.Reason != "change 17" {
		t.Errorf("got %s: %q", r.State, r.Reason)
	}
	r = must(w.PauseRollout(ctx, alice, r.ID, r.Revision, "looks odd"))
	r = must(w.ResumeRollout(ctx, alice, r.ID, r.Revision, "it was the dashboard"))
	if r.Reason != "it was the dashboard" {
		t.Errorf("got %q", r.Reason)
	}
	if _, err := w.StartRollout(ctx, alice, r.ID, r.Revision, "\x00"); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	for _, reason := range []string{"change 17", "1 of 1", "looks odd", "it was the dashboard"} {
		if n := w.number(`SELECT count(*) FROM audit WHERE object = $1 AND detail ->> 'reason' = $2`, "rollout/"+r.ID, reason); n != 1 {
			t.Errorf("%q: %d audit rows", reason, n)
		}
	}
}

func TestNothingGoesBelowTheSecurityFloor(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	w.AddRelease("1.0.0")
	r := w.Running(fleet.PolicySpec{})
	w.exec(`UPDATE release SET security_floor = '1.0.5' WHERE version = '1.1.0'`)
	_, err := w.RevertRollout(t.Context(), alice, r.ID, r.Revision, store.RevertSpec{To: "1.0.0"})
	wantField(t, err, "/to")
	_, err = w.CreateRollout(t.Context(), alice, fleet.RolloutSpec{Release: "camera", Version: "1.0.0", Cohorts: []string{"all"}})
	wantField(t, err, "/release/version")
}

func TestRolloutIsRefusedByField(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	w.Running(fleet.PolicySpec{})
	w.AddRelease("1.3.0", "m9")
	// One that was never seen says nothing for the release.
	if _, _, err := w.ImportDevices(t.Context(), alice, []store.ImportDevice{{ID: "new-1"}}); err != nil {
		t.Fatal(err)
	}
	must(w.UpdateCohort(t.Context(), alice, 1, fleet.CohortSpec{Name: "all", Devices: []string{"cam-00000", "new-1"}}))
	good := fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}}
	for pointer, change := range map[string]func(*fleet.RolloutSpec){
		"/release":                func(s *fleet.RolloutSpec) { s.Version = "7.0.0" },
		"/cohorts/0":              func(s *fleet.RolloutSpec) { s.Version = "1.3.0" }, // nobody of that model
		"/cohorts/1":              func(s *fleet.RolloutSpec) { s.Cohorts = append(s.Cohorts, "none") },
		"/canary_cohort":          func(s *fleet.RolloutSpec) { s.CanaryCohort = "none" },
		"/policy/waves/1/percent": func(s *fleet.RolloutSpec) { s.PolicySpec.Waves = waves(10, 5) },
	} {
		s := good
		s.Cohorts = slices.Clone(good.Cohorts)
		change(&s)
		_, err := w.CreateRollout(t.Context(), alice, s)
		wantField(t, err, pointer)
	}
}

func TestSecondUseOfAnIdempotencyKeyYieldsTheFirstRollout(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	w.Running(fleet.PolicySpec{})
	by := fleet.Actor{Name: "alice", Key: "k1", Hash: "h1"}
	s := fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}}
	made := make([]fleet.Rollout, 5)
	var all sync.WaitGroup
	for i := range made {
		all.Go(func() { made[i], _ = w.CreateRollout(t.Context(), by, s) })
	}
	all.Wait()
	for _, r := range made {
		if r.ID == "" || r.ID != made[0].ID {
			t.Fatalf("got %q and %q", r.ID, made[0].ID)
		}
	}
	by.Hash = "h2"
	if _, err := w.CreateRollout(t.Context(), by, s); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("another request with the same key: %v", err)
	}
}

func TestDriverThatLostItsLeaseWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	ctx := t.Context()
	old := must(w.AcquireLease(ctx, "driver", "one", time.Hour))
	if _, err := w.AcquireLease(ctx, "driver", "two", time.Hour); !errors.Is(err, fleet.ErrConflict) {
		t.Fatalf("two holders: %v", err)
	}
	if again := must(w.AcquireLease(ctx, "driver", "one", time.Hour)); again.Term != old.Term {
		t.Errorf("renewing changed the term from %d to %d", old.Term, again.Term)
	}
	w.exec(`UPDATE lease SET expires_at = now()`)
	// It ran out: even before another takes it, the old holder is fenced.
	if _, err := w.HaltRollout(ctx, old, r.ID, r.Revision, "late"); !errors.Is(err, fleet.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	next := must(w.AcquireLease(ctx, "driver", "two", time.Hour))
	if next.Term != old.Term+1 {
		t.Errorf("term %d after %d", next.Term, old.Term)
	}
	if _, err := w.OpenNextWave(ctx, old, r.ID, r.Revision, "late"); !errors.Is(err, fleet.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	if err := w.Observe(ctx, old, r.ID, 0, 77, true); !errors.Is(err, fleet.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	if got := must(w.Rollout(ctx, r.ID)); got.Revision != r.Revision {
		t.Errorf("it wrote: %+v", got)
	}
	must(w.OpenNextWave(ctx, next, r.ID, r.Revision, ""))
}

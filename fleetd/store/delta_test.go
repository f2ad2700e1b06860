package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// versions has n devices of model m1 run each of the versions; names go on from one call
// to the next.
func (w *world) versions(n map[string]int) {
	w.t.Helper()
	for version, count := range n {
		var records []store.UplinkRecord
		for i := range count {
			records = append(records, w.Beat(fmt.Sprintf("d-%s-%d", strings.ReplaceAll(version, ".", "-"), i), "m1", version, 1, 1))
		}
		w.Apply(records...)
	}
}

// making is the store of a fleetd that makes deltas from at most so many versions.
func (w *world) making(most int) *store.Store {
	w.t.Helper()
	return w.OpenWith(store.Options{Deltas: most})
}

func (w *world) planned(s *store.Store) (sources []string) {
	w.t.Helper()
	for {
		id, err := s.PlanDeltas(w.t.Context(), time.Hour)
		if err != nil {
			w.t.Fatal(err)
		}
		if id == "" {
			break
		}
	}
	text := w.Exec(`SELECT l.version || '=' || x.devices || '=' || x.state FROM delta x JOIN release l ON l.sha256 = x.source ORDER BY x.devices DESC`)
	return strings.Fields(text)
}

func (w *world) claim(s *store.Store, holder string) (fleet.DeltaJob, bool) {
	w.t.Helper()
	job, ok, err := s.ClaimDelta(w.t.Context(), holder, time.Minute)
	if err != nil {
		w.t.Fatal(err)
	}
	return job, ok
}

func document(n int64) topics.Document {
	return topics.Document{Length: n, SHA256: fmt.Sprintf("%064x", 0xde17a<<20+n)}
}

// ready finishes all that is to be made, and has it published.
func (w *world) ready(s *store.Store) {
	w.t.Helper()
	for n := int64(1); ; n++ {
		job, ok := w.claim(s, "maker")
		if !ok {
			break
		}
		if err := s.FinishDelta(w.t.Context(), job, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(n)}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.publishDeltas(s, 0)
}

func (w *world) publishDeltas(s *store.Store, patience time.Duration) bool {
	w.t.Helper()
	x, ok, err := s.UnlistedDeltas(w.t.Context(), patience, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	if ok {
		if err := s.PublishDeltas(w.t.Context(), x, document(1000)); err != nil {
			w.t.Fatal(err)
		}
	}
	return ok
}

func TestDeltasAreMadeFromWhatDevicesRunTheMostCommonFirst(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0.0", "1.0.1", "1.0.2", "1.2.0"} {
		w.AddRelease(v)
	}
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 2, "1.0.1": 3, "1.0.2": 5, "0.9.0": 9, "1.2.0": 7, "1.1.0": 4}) // 0.9.0 is no release, 1.2.0 is no update
	s := w.making(2)
	r := w.Running(fleet.PolicySpec{})
	if got := fmt.Sprint(w.planned(s)); got != "[1.0.2=5=pending 1.0.1=3=pending]" {
		t.Fatalf("planned %s", got)
	}
	first, ok := w.claim(s, "one")
	second, also := w.claim(w.making(2), "two")
	if _, third := w.claim(s, "three"); !ok || !also || third {
		t.Fatalf("claimed %v, %v, a third: %v", ok, also, third)
	}
	release := must(w.Release(t.Context(), "camera", "1.1.0"))
	popular := must(w.Release(t.Context(), "camera", "1.0.2"))
	if first.Source.SHA256 != popular.SHA256 || first.Target.SHA256 != release.SHA256 || first.Index != *release.Index || first.Target.Length != 100 || first.Source.Length != 100 || first.Attempt != 1 {
		t.Errorf("the first job is %+v", first)
	}
	if second.Source.SHA256 == first.Source.SHA256 {
		t.Errorf("two make the same: %+v", second)
	}
	// Cancelled: nobody waits for it any more.
	if err := s.ReturnDelta(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	must(w.CancelRollout(t.Context(), alice, r.ID, r.Revision, ""))
	if job, ok := w.claim(s, "one"); ok {
		t.Errorf("of a cancelled rollout: %+v", job)
	}
}

func TestALostMakerCostsAnAttemptAndNeverTheJob(t *testing.T) {
	w := newWorld(t)
	w.AddRelease("1.0.0")
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 2})
	s := w.making(50)
	w.Running(fleet.PolicySpec{})
	w.planned(s)
	ctx := t.Context()
	for attempt := 1; attempt <= fleet.DeltaAttempts; attempt++ {
		job, ok := w.claim(s, "same")
		if !ok || job.Attempt != attempt {
			t.Fatalf("attempt %d: %+v, %v", attempt, job, ok)
		}
		if err := s.RenewDelta(ctx, job, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.claim(s, "other"); ok {
			t.Fatal("leased twice")
		}
		w.Exec(`UPDATE delta SET leased_until = now() - interval '1 second'`)
		late := job
		if attempt > 1 { // who was thought to be gone, and comes back
			late.Attempt--
			if err := s.RenewDelta(ctx, late, time.Minute); !errors.Is(err, fleet.ErrFenced) {
				t.Errorf("a late renewal: %v", err)
			}
			if err := s.FinishDelta(ctx, late, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(1)}); !errors.Is(err, fleet.ErrFenced) {
				t.Errorf("a late result: %v", err)
			}
		}
	}
	if job, ok := w.claim(s, "one"); ok {
		t.Errorf("tried once more: %+v", job)
	}
	if text := w.Exec(`SELECT state, error FROM delta`); !strings.Contains(text, "failed") || !strings.Contains(text, "given up") {
		t.Errorf("it is %s", text)
	}
	// A day later it gets another chance.
	w.Exec(`UPDATE delta SET finished_at = now() - interval '2 days'; UPDATE rollout SET deltas_at = NULL`)
	if got := fmt.Sprint(w.planned(s)); got != "[1.0.0=2=pending]" {
		t.Errorf("planned %s", got)
	}
}

func TestAFailedDeltaIsTriedAgainLater(t *testing.T) {
	w := newWorld(t)
	w.AddRelease("1.0.0")
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 2})
	s := w.making(50)
	w.Running(fleet.PolicySpec{})
	w.planned(s)
	for attempt := range fleet.DeltaAttempts {
		job, ok := w.claim(s, "one")
		if !ok {
			t.Fatalf("attempt %d was not made", attempt+1)
		}
		if err := s.FinishDelta(t.Context(), job, fleet.DeltaResult{State: fleet.DeltaFailed, Error: "no \x00 luck", Again: true}); err != nil {
			t.Fatal(err)
		}
		if _, ok := w.claim(s, "one"); ok {
			t.Fatal("tried again at once")
		}
		w.Exec(`UPDATE delta SET leased_until = now() - interval '1 second' WHERE state = 'pending'`)
	}
	if text := w.Exec(`SELECT state, attempts, error FROM delta`); !strings.Contains(text, "failed") || !strings.Contains(text, "no  luck") {
		t.Errorf("it is %s", text)
	}
}

func TestManifestsPinTheDeltasOnceForMany(t *testing.T) {
	w := newWorld(t)
	const n = 300
	counts := map[string]int{}
	for i := range n {
		v := fmt.Sprintf("0.%d.0", i)
		w.AddRelease(v)
		counts[v] = 1
	}
	w.AddIndexed("1.1.0")
	w.versions(counts)
	s := w.making(1000)
	w.Running(fleet.PolicySpec{})
	if got := len(w.planned(s)); got != n {
		t.Fatalf("%d planned", got)
	}
	first, _ := w.claim(s, "one")
	if err := s.FinishDelta(t.Context(), first, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(5000)}); err != nil {
		t.Fatal(err)
	}
	before := w.manifest("all")
	if w.publishDeltas(s, time.Hour) {
		t.Fatal("published though others are to be made and nobody waits")
	}
	stale, ok, err := s.UnlistedDeltas(t.Context(), 0, 0)
	if !ok || err != nil || len(stale.Deltas) != 1 {
		t.Fatalf("%+v, %v, %v", stale, ok, err)
	}
	w.ready(s)
	if err := s.PublishDeltas(t.Context(), stale, document(1)); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("an index without the newer deltas: %v", err)
	}
	m := w.manifest("all")
	if e := m.Entries[0]; e.Deltas == nil || *e.Deltas != document(1000) || m.Version <= before.Version {
		t.Errorf("pinned: %+v", e.Deltas)
	}
	if size := w.number(`SELECT max(octet_length(signed)) FROM manifest`); size > topics.MaxManifest/4 {
		t.Errorf("a manifest of %d bytes", size)
	}
	if w.publishDeltas(s, 0) {
		t.Error("published again though there is nothing new")
	}
	if got := w.number(`SELECT count(*) FROM delta WHERE listed`); got != n {
		t.Errorf("%d listed", got)
	}
	x := topics.DeltaIndex{Schema: 1, Artifact: document(1).SHA256}
	for i := range int64(600) {
		x.Deltas = append(x.Deltas, topics.Delta{From: document(i).SHA256, Document: topics.Document{Length: topics.MaxArtifact, SHA256: document(i).SHA256}})
	}
	if raw := must(topics.Encode(x)); len(raw) > topics.MaxDeltaIndex {
		t.Errorf("the largest index has %d bytes", len(raw))
	}
}

func TestTheFirstWaveWaitsForThePopularDeltas(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0.0", "1.0.1", "1.0.2"} {
		w.AddRelease(v)
	}
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 150, "1.0.1": 60, "1.0.2": 1}) // one of 211 is below a per cent
	s := w.making(50)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	start := func(policy fleet.PolicySpec) fleet.Rollout {
		t.Helper()
		r := must(s.CreateRollout(ctx, alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, PolicySpec: policy}))
		return must(s.StartRollout(ctx, alice, r.ID, r.Revision, ""))
	}
	decide := func(id string) (fleet.Decision, fleet.Rollout) {
		t.Helper()
		r, e, err := s.Evidence(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return fleet.Decide(r, e), must(s.Rollout(ctx, id))
	}
	zero := fleet.Duration(0)
	if r := start(fleet.PolicySpec{DeltaWait: &zero}); r.Waves[0].State != fleet.WaveOpen {
		t.Errorf("told not to wait, its first wave is %+v", r.Waves[0])
	}
	r := start(fleet.PolicySpec{})
	if _, ok := r.Current(); ok || r.State != fleet.Running || len(w.manifest("all").Entries[0].Waves) != 0 {
		t.Fatalf("it began without deltas: %+v", r.Waves)
	}
	w.planned(s)
	d, now := decide(r.ID)
	if d.Move != fleet.Stay || !strings.HasPrefix(d.Reason, "waiting for deltas: 2 of 2 missing, until ") || now.Waves[0].Gate != d.Reason {
		t.Errorf("decided %+v, gate %q", d, now.Waves[0].Gate)
	}
	job, _ := w.claim(s, "one")
	if err := s.FinishDelta(ctx, job, fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(7)}); err != nil {
		t.Fatal(err)
	}
	if d, now = decide(r.ID); d.Move != fleet.Stay || !strings.Contains(d.Reason, "2 of 2") || now.Deltas[0].State != fleet.DeltaReady || now.Deltas[0].Listed {
		t.Errorf("ready but not told to devices: %+v, %+v", d, now.Deltas)
	}
	if !w.publishDeltas(s, 0) {
		t.Fatal("not published while a wave waits")
	}
	if d, now = decide(r.ID); d.Move != fleet.Stay || !strings.Contains(d.Reason, "1 of 2") || now.Deltas[0].Delta != document(7) || now.Deltas[1].State != fleet.DeltaPending {
		t.Errorf("one of two: %+v, %+v", d, now.Deltas)
	}
	if text := fmt.Sprintln(now.Deltas[0].From, now.Deltas[0].Devices, now.Deltas[2].From, now.Deltas[2].Devices); text != "1.0.0 150 1.0.2 1\n" {
		t.Errorf("sources: %s", text)
	}
	job, _ = w.claim(s, "one")
	if err := s.FinishDelta(ctx, job, fleet.DeltaResult{State: fleet.DeltaFailed, Error: "too large"}); err != nil {
		t.Fatal(err)
	}
	if d, _ = decide(r.ID); d.Move != fleet.Open {
		t.Errorf("nothing is missing that could come: %+v", d)
	}
	// Patience ends, and a revert has none.
	w.Exec(`UPDATE delta SET state = 'pending', finished_at = NULL, listed = false`)
	if d, _ = decide(r.ID); d.Move != fleet.Stay {
		t.Errorf("missing again: %+v", d)
	}
	w.Exec(`UPDATE rollout SET started_at = started_at - interval '11 minutes' WHERE id = '` + r.ID + `'`)
	if d, _ = decide(r.ID); d.Move != fleet.Open {
		t.Errorf("after its patience: %+v", d)
	}
	if fleet.DefaultPolicy(topics.EntryRevert).DeltaWait != 0 {
		t.Error("a revert waits")
	}
	// Where nobody makes deltas nobody waits.
	r = must(w.CreateRollout(ctx, alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}}))
	if r = must(w.StartRollout(ctx, alice, r.ID, r.Revision, "")); r.Waves[0].State != fleet.WaveOpen {
		t.Errorf("its first wave is %+v", r.Waves[0])
	}
}

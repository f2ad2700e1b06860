package store_test

import (
	"errors"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// TestWhatLooksThroughCompressionIsListedToo, and what saves nothing is not.
func TestWhatLooksThroughCompressionIsListedToo(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0.0", "1.0.1", "1.0.2"} {
		w.AddRelease(v)
	}
	w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 5, "1.0.1": 3, "1.0.2": 2})
	s := w.making(50)
	r := w.Running(fleet.PolicySpec{})
	w.planned(s)
	five, three := document(5), document(3)
	var from []string
	for _, result := range []fleet.DeltaResult{
		{State: fleet.DeltaReady, Delta: document(50), Expanded: &five, PlainUseless: true},
		{State: fleet.DeltaReady, Delta: document(30), Expanded: &three},
		{State: fleet.DeltaReady, Delta: document(20)},
	} {
		job, ok := w.claim(s, "maker")
		if !ok {
			t.Fatal("nothing to make")
		}
		from = append(from, job.Source.SHA256)
		if err := s.FinishDelta(t.Context(), job, result); err != nil {
			t.Fatal(err)
		}
	}
	x, ok, err := s.UnlistedDeltas(t.Context(), 0, 0)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if want := []topics.Delta{{From: from[1], Document: document(30)}, {From: from[2], Document: document(20)}}; !sameList(x.Deltas, want) {
		t.Errorf("plain: %+v", x.Deltas)
	}
	if want := []topics.Delta{{From: from[0], Document: five}, {From: from[1], Document: three}}; !sameList(x.Expanded, want) {
		t.Errorf("expanded: %+v", x.Expanded)
	}
	stale := x
	stale.Expanded = x.Expanded[:1]
	if err := s.PublishDeltas(t.Context(), stale, document(1)); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("an index without one of them: %v", err)
	}
	if err := s.PublishDeltas(t.Context(), x, document(1)); err != nil {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM delta WHERE listed`); n != 3 {
		t.Errorf("%d are listed", n)
	}
	now := must(s.Rollout(t.Context(), r.ID))
	for i, want := range []topics.Document{five, three, document(20)} {
		if now.Deltas[i].Delta != want || !now.Deltas[i].Listed {
			t.Errorf("source %d: %+v", i, now.Deltas[i])
		}
	}
	// One that is made anew and worse leaves nothing of what it was.
	w.Exec(`UPDATE delta SET state = 'pending', finished_at = NULL, listed = false, attempts = 0 WHERE source = '` + from[0] + `'`)
	job, ok := w.claim(s, "maker")
	if !ok {
		t.Fatal("nothing to make")
	}
	if err := s.FinishDelta(t.Context(), job, fleet.DeltaResult{State: fleet.DeltaUseless, Delta: document(50)}); err != nil {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM delta WHERE expanded_length IS NOT NULL`); n != 1 {
		t.Errorf("%d have one", n)
	}
}

func sameList(a, b []topics.Delta) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestAnIndexHoldsAsManyAsItMay, of both kinds together.
func TestAnIndexHoldsAsManyAsItMay(t *testing.T) {
	w := newWorld(t)
	w.AddRelease("1.0.0")
	release := w.AddIndexed("1.1.0")
	w.versions(map[string]int{"1.0.0": 5})
	s := w.making(50)
	w.Running(fleet.PolicySpec{})
	w.Exec(`INSERT INTO delta (target, source, state, devices, length, sha256, expanded_length, expanded_sha256, finished_at)
		SELECT '` + release.SHA256 + `', lpad(n::text, 64, '0'), 'ready', 1000 - n, 68719476736, repeat('a', 64), 68719476736, repeat('b', 64), now() FROM generate_series(1, 400) n`)
	x, ok, err := s.UnlistedDeltas(t.Context(), time.Hour, time.Hour)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if len(x.Deltas) != 300 || len(x.Expanded) != 300 {
		t.Errorf("%d and %d", len(x.Deltas), len(x.Expanded))
	}
	if raw := must(topics.Encode(x)); len(raw) > topics.MaxDeltaIndex {
		t.Errorf("%d bytes", len(raw))
	}
	if err := s.PublishDeltas(t.Context(), x, document(1)); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.UnlistedDeltas(t.Context(), 0, 0); ok || err != nil {
		t.Errorf("what finds no room is to be listed again: %v, %v", ok, err)
	}
}

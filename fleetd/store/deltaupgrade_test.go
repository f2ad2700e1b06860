package store_test

import (
	"fmt"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// listedByAnOld does what a replica of before migration 007 does to publish a delta index:
// it lists the first of two deltas only, and notes the row as listed.
func (w *world) listedByAnOld(target string, pin topics.Document) {
	w.t.Helper()
	w.Exec(fmt.Sprintf(`
		INSERT INTO delta_index (target) VALUES ('%[1]s') ON CONFLICT DO NOTHING;
		UPDATE delta_index SET length = %[2]d, sha256 = '%[3]s', made_at = clock_timestamp() WHERE target = '%[1]s';
		UPDATE delta SET listed = true WHERE target = '%[1]s' AND state = 'ready'`, target, pin.Length, pin.SHA256))
}

// TestWhatAnOldReplicaHasListedIsListedAgainWithTheRest: during a rolling upgrade it
// publishes now and then, and knows one kind of deltas only.
func TestWhatAnOldReplicaHasListedIsListedAgainWithTheRest(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0.0", "1.0.1", "1.0.2"} {
		w.AddRelease(v)
	}
	target := w.AddIndexed("1.1.0").SHA256
	w.versions(map[string]int{"1.0.0": 5, "1.0.1": 3, "1.0.2": 2})
	s, other := w.making(50), w.making(50)
	w.Running(fleet.PolicySpec{})
	w.planned(s)
	unlisted := func() (topics.DeltaIndex, bool) {
		t.Helper()
		x, ok, err := s.UnlistedDeltas(t.Context(), time.Hour, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return x, ok
	}
	five := document(5)
	finish := func(r fleet.DeltaResult) {
		t.Helper()
		job, ok := w.claim(s, "maker")
		if !ok {
			t.Fatal("nothing to make")
		}
		if err := s.FinishDelta(t.Context(), job, r); err != nil {
			t.Fatal(err)
		}
	}
	again := func(when string, pin topics.Document, plain int) {
		t.Helper()
		x, ok := unlisted()
		if !ok || len(x.Deltas) != plain || len(x.Expanded) != 1 || x.Expanded[0].Document != five {
			t.Fatalf("%s: %v, %+v", when, ok, x)
		}
		if err := s.PublishDeltas(t.Context(), x, pin); err != nil {
			t.Fatal(err)
		}
		m := w.manifest("all")
		if m.Entries[0].Deltas == nil || *m.Entries[0].Deltas != pin {
			t.Errorf("%s: pinned %+v", when, m.Entries[0].Deltas)
		}
		// Another replica had the same thought.
		if err := other.PublishDeltas(t.Context(), x, pin); err != nil {
			t.Fatal(err)
		}
		if n := w.manifest("all").Version; n != m.Version {
			t.Errorf("%s: signed again for the same index", when)
		}
		if x, ok := unlisted(); ok {
			t.Errorf("%s: and once more: %+v", when, x)
		}
	}
	finish(fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(50), Expanded: &five})
	w.listedByAnOld(target, document(1000))
	again("listed by the old one first", document(1001), 1) // though others are to be made

	finish(fleet.DeltaResult{State: fleet.DeltaReady, Delta: document(60)})
	w.listedByAnOld(target, document(1002))
	again("listed by the old one when it was whole", document(1003), 2)

	// Where there is nothing that it does not know of, there is nothing to do.
	w.Exec(`UPDATE delta SET expanded_length = NULL, expanded_sha256 = NULL, expanded_listed = false`)
	w.listedByAnOld(target, document(1004))
	if x, ok := unlisted(); ok {
		t.Errorf("listed again without need: %+v", x)
	}
}

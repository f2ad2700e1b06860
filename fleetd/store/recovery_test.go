package store_test

import (
	"testing"
	"time"

	"groundswell/fleetd/store"
)

// A device was reset and numbers its heartbeats by a clock that is behind: it is
// told the time. What is only delivered again, or comes late, tells of no reset.
func TestDeviceThatCountsFromBehindIsToldTheTime(t *testing.T) {
	w := newWorld(t)
	version := func() int64 {
		d, err := w.Device(t.Context(), "cam-1")
		if err != nil {
			t.Fatal(err)
		}
		return d.AssignmentVersion
	}
	age := func() { w.Exec(`UPDATE assignment SET published_at = now() - interval '1 hour'`) }
	first := w.Beat("cam-1", "m1", "1.0.0", 1000, 1)
	w.Apply(first, w.Beat("cam-1", "m1", "1.0.0", 1000, 50))
	before := version()
	unchanged := func(what string, records ...store.UplinkRecord) {
		t.Helper()
		w.Apply(records...)
		if got := version(); got != before {
			t.Errorf("%s: assignment %d became %d", what, before, got)
		}
	}
	unchanged("young assignment", w.Beat("cam-1", "m1", "1.0.0", 1000, 2))
	age()
	unchanged("delivered again", first)
	unchanged("the next", w.Beat("cam-1", "m1", "1.0.0", 1000, 51))
	unchanged("as much as before", w.Beat("cam-1", "m1", "1.0.0", 1000, 51))
	w.Apply(w.Beat("cam-1", "m1", "1.0.0", 900, 1))
	if got := version(); got <= before {
		t.Errorf("after a reset: assignment %d, before %d", got, before)
	}
	before = version()
	unchanged("a moment later", w.Beat("cam-1", "m1", "1.0.0", 900, 2))
	age()
	late := w.Beat("cam-1", "m1", "1.0.0", 900, 3)
	w.Apply(w.Beat("cam-1", "m1", "1.0.0", 2000, 1))
	late.Stored = late.Stored.Add(-time.Minute)
	unchanged("late, of the epoch before", late)
}

package journal

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// lose removes files of the journal, as a bad flash or a file system check does.
func lose(t testing.TB, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
}

var wokeIn1970 = time.Unix(3, 0)

func TestEpochDoesNotGoBackWithTheClock(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	lose(t, dir, "journal", "journal.old")
	r := open(t, dir, wokeIn1970).Snapshot()
	if r.Epoch != begun.Unix()+1 || r.Blind {
		t.Fatalf("after the loss: %+v", r)
	}
	// And it lasts: the next loss comes after this epoch.
	lose(t, dir, "journal")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != begun.Unix()+2 {
		t.Fatalf("after the next: %+v", r)
	}
	// A device of before there was a copy gets one.
	lose(t, dir, "epoch", "epoch.old")
	open(t, dir, wokeIn1970)
	lose(t, dir, "journal")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != begun.Unix()+3 {
		t.Fatalf("after an update of the agent: %+v", r)
	}
}

func TestEpochBegunBlindGivesWayToTheTimeThatWasVerified(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	witness := func(at time.Time, agrees bool, epoch int64, blind bool) {
		t.Helper()
		if err := j.Witness(at, agrees); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir, wokeIn1970)
		if r := j.Snapshot(); r.Epoch != epoch || r.Blind != blind {
			t.Fatalf("epoch %d, blind %v; want %d, %v", r.Epoch, r.Blind, epoch, blind)
		}
	}
	witness(begun.Add(time.Second), true, begun.Unix(), false) // the clock was right all along
	witness(begun.AddDate(1, 0, 0), true, begun.Unix(), false)

	lose(t, dir, "journal", "journal.old", "epoch")
	j = open(t, dir, wokeIn1970)
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	issued := begun.AddDate(0, 1, 0)
	witness(issued, false, issued.Unix(), true)
	if r := j.Snapshot(); r.Sequence != restarted(0) {
		t.Errorf("sequence %d in a new epoch", r.Sequence)
	}
	witness(begun, false, issued.Unix(), true)
	// The clock agrees now, and the last epoch is in the copy at once.
	if err := j.Witness(issued.Add(time.Hour), true); err != nil || j.Snapshot().Blind {
		t.Fatalf("%+v, %v", j.Snapshot(), err)
	}
	lose(t, dir, "journal", "journal.old")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != issued.Add(time.Hour).Unix()+1 {
		t.Errorf("after a loss: %+v", r)
	}
}

// The copy of the epoch could not be written when the epoch began, and now the
// journal falls back on its older generation: what was lost is unknown again.
func TestEpochIsBlindWhereTheCopyIsBehindToo(t *testing.T) {
	for _, c := range []struct {
		name  string
		copy  string
		epoch int64
		blind bool
	}{{"behind", "5", 8, true}, {"none", "", 8, true}, {"level", "7", 8, false}, {"ahead", "9", 10, false}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := NewFile(filepath.Join(dir, name))
			for range 2 {
				if err := f.Save([]byte(`{"epoch":7,"sequence":1,"next_id":1}`)); err != nil {
					t.Fatal(err)
				}
			}
			flip(t, filepath.Join(dir, name))
			if c.copy != "" {
				if err := NewFile(filepath.Join(dir, epochName)).Save([]byte(c.copy)); err != nil {
					t.Fatal(err)
				}
			}
			r := open(t, dir, wokeIn1970).Snapshot()
			if r.Blind != c.blind || r.Epoch != c.epoch {
				t.Errorf("%+v, want epoch %d, blind %v", r, c.epoch, c.blind)
			}
		})
	}
}

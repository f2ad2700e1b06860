package allowance

import (
	"testing"
	"time"

	"groundswell/topics"
)

func TestDownloadsHaveWindowsOfTheirOwn(t *testing.T) {
	night := []topics.Window{{Start: "01:00", End: "05:00"}}
	d := newDevice(t, Config{Windows: night})
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	d.zone = berlin
	delay := d.delay(night)
	if delay <= 0 || delay >= mostDelay {
		t.Fatalf("%v", delay)
	}
	opens := time.Date(2026, 12, 2, 1, 0, 0, 0, berlin).Add(delay)
	d.waits(ReasonWindow, opens)
	d.has(0)
	d.pass(opens.Sub(d.now) - time.Second)
	d.waits(ReasonWindow, opens)
	d.pass(time.Second)
	d.may()
	if left, limited := d.Left(); limited {
		t.Errorf("%d bytes are left in the window", left)
	}
	end := time.Date(2026, 12, 2, 5, 0, 0, 0, berlin)
	d.pass(end.Sub(d.now) - time.Second)
	d.may()
	d.pass(time.Second)
	d.has(0)
	d.waits(ReasonWindow, opens.Add(24*time.Hour))
}

// TestTheRolloutsWindowCountsBesides: also for what is under way.
func TestTheRolloutsWindowCountsBesides(t *testing.T) {
	d := newDevice(t, Config{Windows: []topics.Window{{Start: "10:00", End: "16:00"}}})
	rollouts := []topics.Window{{Start: "14:00", End: "20:00"}}
	d.may()
	if hold := d.Look(t.Context(), rollouts); hold == nil || hold.Reason != ReasonWindow || hold.Until.Before(time.Date(2026, 12, 1, 14, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", hold)
	}
	end := d.Begin(t.Context(), rollouts)
	d.has(0)
	d.pass(3 * time.Hour)
	if _, limited := d.Left(); limited {
		t.Error("shut while both are open")
	}
	d.pass(time.Hour)
	d.has(0)
	end()
	d.pass(20 * time.Hour) // noon
	if _, limited := d.Left(); limited {
		t.Error("the rollout's window outlives its download")
	}
}

// TestAWindowThatIsShorterThanAnHourIsUsed: its opening is not put off beyond its end.
func TestAWindowThatIsShorterThanAnHourIsUsed(t *testing.T) {
	short := []topics.Window{{Start: "23:55", End: "00:05"}}
	d := newDevice(t, Config{Windows: short})
	if delay := d.delay(short); delay > 10*time.Minute/4 {
		t.Errorf("%v", delay)
	}
	d.now = time.Date(2026, 12, 1, 23, 58, 0, 0, time.UTC)
	d.may()
	d.pass(6 * time.Minute)
	d.may()
	d.pass(time.Minute)
	d.has(0)
}

func windows(start, end string) []topics.Window { return []topics.Window{{Start: start, End: end}} }

package allowance

import (
	"log/slog"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/clock"
	"groundswell/agent/journal"
	"groundswell/topics"
)

// device is one whose clock and uptime the test sets, with a journal on disk.
type device struct {
	*Allowance
	t      *testing.T
	dir    string
	cfg    Config
	now    time.Time
	uptime time.Duration
	clock  *clock.Clock
	zone   *time.Location
}

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func newDevice(t *testing.T, cfg Config) *device {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	d := &device{t: t, dir: t.TempDir(), cfg: cfg, now: noon, zone: time.UTC}
	d.clock = clock.NewFrom(noon.Add(-24*time.Hour), func() time.Time { return d.now }, func() time.Duration { return d.uptime })
	d.start()
	return d
}

// start is what follows a power cut, or Close.
func (d *device) start() {
	d.t.Helper()
	j, err := journal.Open(d.dir, d.clock.Floor(), slog.New(slog.DiscardHandler))
	if err != nil {
		d.t.Fatal(err)
	}
	d.Allowance = New(d.cfg, "camera-1", d.clock, slog.New(slog.DiscardHandler))
	d.Remember(j, func() *time.Location { return d.zone })
}

// pass lets time pass.
func (d *device) pass(long time.Duration) {
	d.now = d.now.Add(long)
	d.uptime += long
}

func (d *device) has(want int64) {
	d.t.Helper()
	if got, limited := d.Left(); !limited || got != want {
		d.t.Errorf("%v: %d bytes are left (limited: %v), want %d", d.now, got, limited, want)
	}
}

func (d *device) waits(reason string, until time.Time) {
	d.t.Helper()
	hold := d.Look(d.t.Context(), nil)
	if hold == nil || hold.Reason != reason || !hold.Until.Equal(until) || hold.Again <= 0 || hold.Again > glance {
		d.t.Errorf("%v: %+v, want %s until %v", d.now, hold, reason, until)
	}
}

func (d *device) may() {
	d.t.Helper()
	if hold := d.Look(d.t.Context(), nil); hold != nil {
		d.t.Errorf("%v: %+v", d.now, hold)
	}
}

// begins is when the device's day of a date begins: within the first hour.
func begins(t *testing.T, zone *time.Location, month time.Month, day int) time.Time {
	t.Helper()
	own := time.Duration(topics.Bucket("camera-1")) * spread / topics.Buckets
	if own <= 0 || own >= spread {
		t.Fatalf("%v", own)
	}
	return time.Date(2026, month, day, 0, 0, 0, 0, zone).Add(own)
}

const mib = 1 << 20

func TestTheBudgetIsForADayOfTheDevicesZone(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: 10 * mib})
	auckland, err := time.LoadLocation("Pacific/Auckland")
	if err != nil {
		t.Fatal(err)
	}
	d.zone = auckland
	d.has(10 * mib)
	d.may()
	d.spent(4 * mib)
	d.has(6 * mib)
	d.spent(7 * mib)
	d.has(0)
	next := begins(t, auckland, time.December, 3) // it is the 2nd there
	d.waits(ReasonBudget, next)
	d.pass(next.Sub(d.now) - time.Second)
	d.waits(ReasonBudget, next)
	d.pass(time.Second)
	d.may()
	d.has(9 * mib) // what the day before took too much
	d.pass(24 * time.Hour)
	d.has(10 * mib) // and what is not used is not kept
}

func TestADayIsAsLongAsTheClocksSay(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	d.zone = berlin
	d.now = time.Date(2027, 3, 28, 1, 30, 0, 0, berlin) // 23 hours long
	d.clock.Raise(d.now)
	d.spent(mib)
	own := begins(t, berlin, time.December, 1).Sub(time.Date(2026, 12, 1, 0, 0, 0, 0, berlin))
	d.waits(ReasonBudget, time.Date(2027, 3, 29, 0, 0, 0, 0, berlin).Add(own))
}

// TestWhatWasUsedIsKnownAfterAPowerCut: at any moment, and never less than was used.
func TestWhatWasUsedIsKnownAfterAPowerCut(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: 10 * mib})
	used := int64(0)
	for range 20 {
		d.spent(100_000)
		used += 100_000
		before, _ := d.Left()
		d.start()
		after, limited := d.Left()
		if !limited || after > 10*mib-used || after > before {
			t.Fatalf("%d bytes are left after %d of %d were used", after, used, 10*mib)
		}
		if lost := before - after; lost > 10*mib/64 {
			t.Fatalf("a power cut costs %d bytes", lost)
		}
	}
	d.spent(1000)
	d.Close()
	exact, _ := d.Left()
	d.start()
	d.has(exact) // an orderly end costs none
}

// TestTheJournalIsNotWrittenForEachRead: it is on flash.
func TestTheJournalIsNotWrittenForEachRead(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: 64 * mib})
	writes := 0
	var last journal.Usage
	for range 64 * 64 {
		d.spent(16 << 10)
		if u := d.journal.Snapshot().Usage; u != last {
			writes, last = writes+1, u
		}
	}
	if d.has(0); writes > 66 {
		t.Errorf("%d writes", writes)
	}
}

// TestAWrongClockMakesNoBudgetEndless: nor does one that goes to and fro, over restarts.
func TestAWrongClockMakesNoBudgetEndless(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	d.spent(mib)
	for _, far := range []time.Duration{-365 * 24 * time.Hour, 24 * time.Hour, 365 * 24 * time.Hour, 74 * 365 * 24 * time.Hour} {
		right := d.now
		given := int64(0)
		for range 10 {
			for _, at := range []time.Time{right.Add(far), right} {
				d.now = at
				if left, _ := d.Left(); left > 0 {
					given++
					d.spent(mib)
				}
				d.start()
			}
		}
		want := int64(0)
		if far == 24*time.Hour {
			want = 1 // tomorrow's, a day early
		}
		if given != want {
			t.Errorf("off by %v: %d budgets, want %d", far, given, want)
		}
	}
}

// TestAWrongClockTakesTheBudgetAwayForADayAtMost: whatever day it had begun.
func TestAWrongClockTakesTheBudgetAwayForADayAtMost(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	d.now = noon.Add(13 * 24 * time.Hour) // not more than anything signed is good for
	d.spent(mib)
	d.now = noon
	d.start()
	d.waits(ReasonBudget, time.Time{}) // nobody knows
	d.pass(longestDay - time.Second)
	d.has(0)
	d.pass(time.Second)
	d.may()
	d.spent(mib)
	d.waits(ReasonBudget, begins(t, time.UTC, time.December, 3))
}

// TestAWrongClockIsNotKeptByRestarts: a device that runs for minutes a day, whose clock was
// ahead once.
func TestAWrongClockIsNotKeptByRestarts(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	d.now = noon.Add(13 * 24 * time.Hour)
	d.spent(mib)
	d.now = noon
	given := 0
	for range 6 {
		d.Close()
		d.pass(12 * time.Hour)
		d.uptime = 0
		d.clock.Reset(d.now) // as a manifest that was signed today raises it
		d.start()
		if d.Look(t.Context(), nil) == nil {
			d.spent(mib)
			given++
		}
	}
	// At once, for what was verified has gone on by more than a day, and then by the clock.
	if given != 4 {
		t.Errorf("%d budgets in three days, and four were begun", given)
	}
}

// TestADebtIsForgottenAfterAWeek: a source that sends rubbish must not keep a device from
// updates for months.
func TestADebtIsForgottenAfterAWeek(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	d.spent(1000 * mib)
	for range 7 {
		d.has(0)
		d.pass(24 * time.Hour)
	}
	d.has(0)
	d.pass(24 * time.Hour)
	d.has(mib)
}

func TestADiskThatTakesNoWritesCountsInMemory(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: mib})
	d.spent(mib / 2)
	defer agenttest.BreakJournal(t, d.dir)()
	d.spent(mib / 2)
	d.waits(ReasonBudget, begins(t, time.UTC, time.December, 2))
}

func TestWithoutABudgetNothingIsWritten(t *testing.T) {
	d := newDevice(t, Config{})
	d.may()
	d.spent(mib)
	if left, limited := d.Left(); limited {
		t.Errorf("%d bytes", left)
	}
	d.Close()
	if u := d.journal.Snapshot().Usage; u != (journal.Usage{}) {
		t.Errorf("%+v", u)
	}
}

package decide

import (
	"testing"
	"time"

	"groundswell/topics"
)

func TestLastLookBeforeTheJump(t *testing.T) {
	e := entry("r-1")
	downloaded := now.Add(-time.Hour)
	live := View{Live: true}
	polled := func(opened, read time.Duration) View {
		return View{Opened: now.Add(-opened), Age: read}
	}
	paused := entry("r-1", func(e *topics.Entry) { e.State = topics.EntryPaused })
	other := entry("r-1", func(e *topics.Entry) { e.Version = "1.1.1" })
	quick := entry("r-1", func(e *topics.Entry) { e.FreshSeconds = 60 })
	shut := entry("r-1", func(e *topics.Entry) { e.Windows = []topics.Window{{Start: "22:00", End: "23:00"}} })
	cases := []struct {
		name    string
		entries []topics.Entry
		view    View
		action  Action
		reason  string
	}{
		{"live session", []topics.Entry{e}, live, Start, ReasonInProgress},
		{"live session that has been silent for too long", []topics.Entry{e}, View{Live: true, Age: 16 * time.Minute}, Wait, ReasonStale},
		{"never connected since the start", []topics.Entry{e}, View{}, Wait, ReasonStale},
		{"read after the download, a minute ago", []topics.Entry{e}, polled(2*time.Minute, time.Minute), Start, ReasonInProgress},
		{"session is older than the download", []topics.Entry{e}, polled(2*time.Hour, time.Minute), Wait, ReasonStale},
		{"read too long ago", []topics.Entry{e}, polled(20*time.Minute, 16*time.Minute), Wait, ReasonStale},
		{"read too long ago for this rollout", []topics.Entry{quick}, polled(3*time.Minute, 2*time.Minute), Wait, ReasonStale},
		{"paused meanwhile", []topics.Entry{paused}, live, Stop, ReasonPaused},
		{"cancelled meanwhile", nil, live, Stop, ReasonCancelled},
		{"another release meanwhile", []topics.Entry{other}, live, Stop, ReasonSuperseded},
		{"window shut meanwhile", []topics.Entry{shut}, live, Wait, ReasonWindow},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := facts("1.0.0")
			f.InProgress = map[string]Attempt{"system": {"r-1", e.Target.SHA256}}
			a, held := world(c.entries)
			decisions, _ := Decide(valid(a, held), f, now)
			d := MayActivate(Staged{e, downloaded}, decisions["system"], c.view, f, a, now)
			if d.Action != c.action || d.Reason != c.reason {
				t.Fatalf("got %s, %s; want %s, %s", d.Action, d.Reason, c.action, c.reason)
			}
			if c.reason == ReasonWindow && !d.Until.Equal(time.Date(2027, 3, 3, 22, 0, 0, 0, time.UTC)) {
				t.Errorf("until %v", d.Until)
			}
		})
	}
}

func TestJumpsAreSpreadBehindAWindowThatOpenedSinceTheDownload(t *testing.T) {
	e := entry("r-1", func(e *topics.Entry) {
		e.Windows = []topics.Window{{Start: "11:30", End: "13:30"}}
		e.Waves[0].SpreadSeconds = 7200
	})
	f := facts("1.0.0")
	f.InProgress = map[string]Attempt{"system": {"r-1", e.Target.SHA256}}
	a, held := world([]topics.Entry{e})
	decisions, _ := Decide(valid(a, held), f, now)
	d := MayActivate(Staged{e, now.Add(-8 * time.Hour)}, decisions["system"], View{Live: true}, f, a, now)
	if d.Action != Wait || !d.Until.Equal(now.Add(30*time.Minute)) { // half of two hours after 11:30
		t.Fatalf("downloaded yesterday: %+v", d)
	}
	d = MayActivate(Staged{e, now.Add(-time.Minute)}, decisions["system"], View{Live: true}, f, a, now)
	if d.Action != Start {
		t.Fatalf("downloaded in this window: %+v", d)
	}
}

// TestWhatRunsAlreadyIsNotJumpedTo: somebody has flashed it by hand while it was staged.
func TestWhatRunsAlreadyIsNotJumpedTo(t *testing.T) {
	e := entry("r-1")
	f := facts(e.Version)
	f.InProgress = map[string]Attempt{"system": {"r-1", e.Target.SHA256}}
	a, held := world([]topics.Entry{e})
	decisions, _ := Decide(valid(a, held), f, now)
	d := MayActivate(Staged{e, now.Add(-time.Hour)}, decisions["system"], View{Live: true}, f, a, now)
	if d.Action != None || d.Reason != ReasonSatisfied {
		t.Fatalf("got %s, %s", d.Action, d.Reason)
	}
}

package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/topics"
)

// bank is two slots of which only the bookkeeping is there.
type bank struct {
	running slot.Running
	armed   bool
	trial   update.Trial
	confirm error
	fell    int    // calls of FallBack
	discard func() // instead of nothing
	output  string
	absent  int // calls of Stage and Activate that fail before one does not
	asked   int // calls of them
}

func (b *bank) ask() error {
	b.asked++
	if b.asked <= b.absent {
		return fmt.Errorf("an installer: %w", slot.ErrUnavailable)
	}
	return nil
}

func (b *bank) Ready(context.Context) error           { return nil }
func (b *bank) Running() slot.Running                 { return b.running }
func (b *bank) Trial(string) update.Trial             { return b.trial }
func (b *bank) Armed() bool                           { return b.armed }
func (b *bank) Output() string                        { return b.output }
func (b *bank) Staging(string) (string, error)        { return "", nil }
func (b *bank) Stage(slot.Image) (string, error)      { return "b", b.ask() }
func (b *bank) Activate(context.Context) error        { return b.ask() }
func (b *bank) Confirm(context.Context, string) error { return b.confirm }
func (b *bank) Discard() error {
	if b.discard != nil {
		b.discard()
	}
	return nil
}
func (b *bank) FallBack(context.Context) error {
	b.fell++
	b.armed, b.trial = false, update.NotArmed
	b.running = slot.Running{Slot: "a", Image: slot.Image{Version: "1.0.0"}, Up: true}
	return nil
}

// idle is a world without news, and pauses that end at once.
type idle struct{ pause func() }

func (idle) World() decide.World          { return decide.World{} }
func (idle) Changed() <-chan struct{}     { return nil }
func (idle) CheckIn()                     {}
func (idle) Heartbeat()                   {}
func (idle) Heard() (time.Duration, bool) { return 0, false }
func (i idle) Pause(ctx context.Context, _ int) error {
	if i.pause != nil {
		i.pause()
	}
	return ctx.Err()
}
func (idle) Artifact(context.Context, fetch.Artifact, string, func(int64, topics.Transfer)) error {
	return nil
}

// newDriver is one in the middle of an attempt.
func newDriver(t *testing.T, b *bank, state update.State) (d *Driver, dir string) {
	t.Helper()
	dir = t.TempDir()
	j, err := journal.Open(dir, now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d = New(Config{Component: "system", Device: "cam-1", RetryMin: time.Second, RetryMax: time.Minute},
		NewDevice(idle{}, condition.Config{}), b, nil, idle{}, j, clock.New(now, func() time.Time { return now }), slog.New(slog.DiscardHandler))
	d.dep = journal.Deployment{
		State: state, Slot: "b", Cohort: "lobby", Attempt: 1, From: "1.0.0", Reason: "health", PreviousBootID: "b0",
		Entry: topics.Entry{Rollout: "r-1", Revision: 1, Component: "system", Release: "camera", Version: "1.1.0"},
	}
	if err := d.write(nil); err != nil {
		t.Fatal(err)
	}
	return d, dir
}

func onTrial() *bank {
	return &bank{
		running: slot.Running{Slot: "b", Image: slot.Image{Version: "1.1.0"}, BootID: "b1", Up: true, Trial: true},
		armed:   true, trial: update.OnTrial,
	}
}

func TestFullDiskDoesNotKeepASickVersionRunning(t *testing.T) {
	b := onTrial()
	d, dir := newDriver(t, b, update.Trying)
	empty := agenttest.BreakJournal(t, dir)
	d.downloads = idle{pause: func() {
		if b.fell == 0 {
			t.Error("waiting for the disk with the sick version running")
		}
		empty()
	}}
	if err := d.report(t.Context()); err != nil { // and go on to watch it
		t.Fatal(err)
	}
	effects, err := d.step(t.Context(), update.Unhealthy)
	if err != nil || !slices.Equal(effects, []update.Effect{update.FallBack, update.Close}) {
		t.Fatalf("%v, %v", effects, err)
	}
	if got := d.journal.Snapshot().Deployments["system"].State; got != update.RolledBack {
		t.Errorf("journal says %s", got)
	}
}

// The leave to jump, and the proof of health, are true for a moment: what could
// not be journalled then is not done when the disk is emptied, days later.
func TestWhatCannotBeJournalledIsLookedAtAgain(t *testing.T) {
	for _, c := range []struct {
		from  update.State
		event update.Event
		again update.Effect
		to    update.State
	}{
		{update.Staged, update.Jump, update.Await, update.Trying},
		{update.Trying, update.Healthy, update.Watch, update.Committed},
	} {
		t.Run(string(c.event), func(t *testing.T) {
			b := onTrial()
			d, dir := newDriver(t, b, c.from)
			empty := agenttest.BreakJournal(t, dir)
			paused := 0
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d.downloads = idle{pause: func() {
				if paused++; paused > 3 {
					cancel() // it insists
				}
			}}
			for n := 1; n <= 3; n++ {
				effects, err := d.step(ctx, c.event)
				if err != nil || !slices.Equal(effects, []update.Effect{c.again}) || paused != n {
					t.Fatalf("%v, %v, after %d pauses", effects, err, paused)
				}
				if got := d.journal.Snapshot().Deployments["system"].State; got != c.from || d.dep.State != c.from {
					t.Fatalf("in state %s, the journal says %s", d.dep.State, got)
				}
			}
			if b.fell != 0 {
				t.Error("it fell back")
			}
			empty()
			if _, err := d.step(ctx, c.event); err != nil || d.dep.State != c.to || d.journal.Snapshot().Deployments["system"].State != c.to {
				t.Errorf("with a disk: state %s, %v", d.dep.State, err)
			}
			// Told to stop while it waits.
			d.dep.State = c.from
			defer agenttest.BreakJournal(t, dir)()
			cancel()
			if _, err := d.step(ctx, c.event); err == nil {
				t.Error("goes on after its end")
			}
		})
	}
}

// The download is what has filled the disk: nobody else would empty it.
func TestDownloadThatFilledTheDiskIsDiscardedBeforeAnythingIsWritten(t *testing.T) {
	b := onTrial()
	b.armed = false
	d, dir := newDriver(t, b, update.Downloading)
	b.discard = agenttest.BreakJournal(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.downloads = idle{pause: func() {
		t.Error("waiting for the disk with the download on it")
		cancel()
	}}
	if _, err := d.step(ctx, update.Fail); err != nil {
		t.Fatal(err)
	}
	if got := d.journal.Snapshot().Deployments["system"].State; got != update.Failed {
		t.Errorf("journal says %s", got)
	}
}

func TestTrialThatTheJournalDoesNotKnowIsEnded(t *testing.T) {
	for _, state := range update.States() {
		if state != update.Idle && state != update.Failed && !state.Harmless() {
			continue
		}
		for name, b := range map[string]*bank{
			"runs":    onTrial(),
			"ran out": {armed: true, trial: update.FellBack, running: slot.Running{Slot: "a", Image: slot.Image{Version: "1.0.0"}}},
		} {
			t.Run(string(state)+", "+name, func(t *testing.T) {
				d, _ := newDriver(t, b, state)
				effects, err := d.resume(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if b.fell != 1 || b.running.Trial {
					t.Errorf("fell back %d times, running %+v", b.fell, b.running)
				}
				// Falling back has emptied the slot, so it has to be filled again.
				if state == update.Staged && (d.dep.State != update.Verified || !slices.Contains(effects, update.Place)) {
					t.Errorf("goes on in %s with %v", d.dep.State, effects)
				}
			})
		}
	}
}

func TestVersionThatWasGivenUpIsRolledBackNotCommitted(t *testing.T) {
	t.Run("before the confirmation", func(t *testing.T) {
		b := onTrial()
		b.confirm = slot.ErrGivenUp
		d, _ := newDriver(t, b, update.Committed)
		if event, err := d.confirm(t.Context()); event != update.Unhealthy || err != nil {
			t.Errorf("%q, %v", event, err)
		}
	})
	t.Run("a moment after it", func(t *testing.T) {
		b := onTrial()
		b.running = slot.Running{Slot: "a", Image: slot.Image{Version: "1.0.0"}, BootID: "b2", Up: true}
		d, _ := newDriver(t, b, update.Committed)
		event, err := d.close(t.Context())
		if event != update.Unhealthy || err != nil {
			t.Fatalf("%q, %v", event, err)
		}
		effects, err := d.step(t.Context(), event)
		if err == nil {
			event, err = d.perform(t.Context(), effects)
		}
		if event != update.Closed || err != nil || b.fell != 1 {
			t.Fatalf("%q, %v, fell back %d times", event, err, b.fell)
		}
		report, _ := d.journal.Next()
		s, err := topics.DecodeStatus(report.Payload)
		if err != nil || s.State != topics.StateRolledBack || s.Running != "1.0.0" {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestStateOfAnotherAgentIsForgotten(t *testing.T) {
	b := onTrial()
	d, _ := newDriver(t, b, "dancing")
	effects, err := d.resume(t.Context())
	if err != nil || d.dep.State != update.Idle || !slices.Equal(effects, []update.Effect{update.Decide}) {
		t.Fatalf("%s, %v, %v", d.dep.State, effects, err)
	}
	if b.fell != 1 || len(d.journal.Snapshot().Deployments) != 0 {
		t.Errorf("fell back %d times, journal %+v", b.fell, d.journal.Snapshot().Deployments)
	}
}

// radio is a world that hears the broker.
type radio struct {
	idle
	ago   time.Duration
	ok    bool
	asked int
}

func (r *radio) Heard() (time.Duration, bool) { return r.ago, r.ok }
func (r *radio) CheckIn()                     { r.asked++ }

// TestASignOfLifeIsFromAfterTheBoot: what the broker said to the version before proves
// nothing; so it is asked for another.
func TestASignOfLifeIsFromAfterTheBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := onTrial()
		d, _ := newDriver(t, b, update.Trying)
		w := &radio{ago: time.Second, ok: true}
		d.world = w
		look := d.observe(time.Minute)
		expect := func(heard bool, asked int) {
			t.Helper()
			if c := look(); c.Heard != heard || w.asked != asked || c.HeardAgo != w.ago {
				t.Fatalf("%+v, asked %d times; want %v, %d", c, w.asked, heard, asked)
			}
		}
		expect(false, 1)
		time.Sleep(2 * time.Second)
		expect(true, 1)
		w.ago = 31 * time.Second // more than half of what is allowed
		time.Sleep(askAgain)
		expect(true, 2)
		w.ago = time.Second
		b.running.BootID = "b2"
		expect(false, 3)
		w.ok = false
		time.Sleep(askAgain + time.Second)
		expect(false, 4)
		expect(false, 4)
		look = d.observe(0)
		expect(false, 4)
	})
}

// TestWhatInstallsIsAskedAgain: it may just be starting. It is not asked for ever.
func TestWhatInstallsIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		absent        int
		place, arm    update.Event
		reason, armed string
	}{
		{absent: askings - 1, place: update.Placed, arm: ""},
		{absent: askings, place: update.Fail, arm: update.Unhealthy, reason: "installer", armed: "activate"},
	} {
		b := &bank{absent: c.absent}
		d, _ := newDriver(t, b, update.Verified)
		event, err := d.place(t.Context())
		if err != nil || event != c.place || c.reason != "" && d.dep.Reason != c.reason || b.asked != askings {
			t.Errorf("%d times away: place: %q (%s), %v, asked %d times", c.absent, event, d.dep.Reason, err, b.asked)
		}
		b.asked = 0
		event, err = d.arm(t.Context())
		if err != nil || event != c.arm || c.armed != "" && d.dep.Reason != c.armed || b.asked != askings {
			t.Errorf("%d times away: arm: %q (%s), %v, asked %d times", c.absent, event, d.dep.Reason, err, b.asked)
		}
	}
}

package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// told is a world in which one cohort's manifest has entries.
type told struct {
	idle
	entries []topics.Entry
}

func (w *told) World() decide.World {
	for i := range w.entries {
		e := &w.entries[i]
		e.Revision, e.Sequence, e.Release, e.Models = 1, int64(i+1), e.Component, []string{"cam-a"}
		e.Target = topics.Target{Path: e.Rollout, Length: 1, SHA256: fmt.Sprintf("%064d", i)}
		if e.State == "" {
			e.State = topics.EntryRunning
		}
		if e.Waves == nil {
			e.Waves = []topics.Wave{{Threshold: topics.Buckets, OpensAt: now.Add(-time.Hour)}}
		}
	}
	later := now.Add(time.Hour)
	return decide.World{
		Assigned: true, Assignment: topics.Assignment{Cohorts: []string{"lobby"}}, AssignmentUntil: later,
		Manifests: map[string]topics.Manifest{"lobby": {Entries: w.entries}}, Until: map[string]time.Time{"lobby": later},
		View: decide.View{Live: true},
	}
}

// several are the drivers of components a, b and c, which all run 1.0.0, in those
// states.
func several(t *testing.T, w *told, conditions condition.Config, states ...update.State) (*Device, []*Driver) {
	t.Helper()
	j, err := journal.Open(t.TempDir(), now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.World()
	device := NewDevice(w, conditions)
	var drivers []*Driver
	for i, state := range states {
		name := string(rune('a' + i))
		dep := journal.Deployment{State: state, Cohort: "lobby", Attempt: 1, From: "1.0.0", Slot: "b"}
		for _, e := range w.entries {
			if e.Component == name {
				dep.Entry = e
			}
		}
		if err := j.Update(func(r *journal.Record) error { r.SetDeployment(name, dep); return nil }); err != nil {
			t.Fatal(err)
		}
		b := &bank{running: slot.Running{Slot: "a", Image: slot.Image{Version: "1.0.0"}, BootID: "b0", Up: true}}
		d := New(Config{Component: name, Device: "cam-1", Model: "cam-a"}, device, b, nil, idle{}, j,
			clock.New(now, func() time.Time { return now }), slog.New(slog.DiscardHandler))
		d.dep = dep
		drivers = append(drivers, d)
	}
	return device, drivers
}

func rollout(component, version string) topics.Entry {
	return topics.Entry{Rollout: "r-" + component, Component: component, Version: version}
}

func TestOneComponentAtATimeAndTheEarlierFirst(t *testing.T) {
	w := &told{entries: []topics.Entry{rollout("a", "2.0.0"), rollout("b", "2.0.0"), rollout("c", "2.0.0")}}
	d, drivers := several(t, w, condition.Config{}, update.Staged, update.Staged, update.Staged)
	take := func(component, want string) {
		t.Helper()
		if first := d.take(component); first != want {
			t.Fatalf("%s: %q goes first, want %q", component, first, want)
		}
	}
	take("c", "a")
	take("b", "a")
	d.block("a") // by something of its own
	take("c", "b")
	take("b", "")
	take("a", "b") // and asks for its turn, so that it goes next
	d.giveBack("b")
	take("b", "a")
	take("a", "")
	drivers[0].dep.State = update.Trying
	if err := drivers[0].write(nil); err != nil {
		t.Fatal(err)
	}
	for _, state := range []update.State{update.Trying, update.Committed, update.RolledBack} {
		d.moved("a", state)
		take("b", "a")
	}
	drivers[0].dep.State = update.Idle
	if err := drivers[0].write(nil); err != nil {
		t.Fatal(err)
	}
	d.moved("a", update.Idle)
	take("c", "b")
	w.entries[1].State = topics.EntryPaused // it would be stopped
	take("c", "")
}

func TestWhoWasPastTheJumpHasTheTurnAfterARestart(t *testing.T) {
	for _, state := range []update.State{update.Trying, update.Committed, update.RolledBack} {
		w := &told{entries: []topics.Entry{rollout("a", "2.0.0"), rollout("b", "2.0.0")}}
		d, _ := several(t, w, condition.Config{}, update.Staged, state)
		if first := d.take("a"); first != "b" {
			t.Errorf("b is in %s, and %q goes before a", state, first)
		}
	}
}

// TestWhoCannotUseItsTurnKeepsNobodyAwake: two that look in vain must not wake each other
// for ever.
func TestWhoCannotUseItsTurnKeepsNobodyAwake(t *testing.T) {
	w := &told{entries: []topics.Entry{rollout("a", "2.0.0"), rollout("b", "2.0.0")}}
	d, drivers := several(t, w, condition.Config{}, update.Staged, update.Staged)
	awake := []int{0, 0}
	for range 20 {
		for i, component := range []string{"a", "b"} {
			select {
			case <-drivers[i].wake:
			default:
				if awake[i] > 0 {
					continue // asleep
				}
			}
			awake[i]++
			if d.take(component) == "" {
				d.block(component)
				d.giveBack(component)
			}
		}
	}
	if awake[0] > 4 || awake[1] > 4 {
		t.Errorf("looked %v times", awake)
	}
}

func TestAReleaseWaitsForWhatItRequires(t *testing.T) {
	needs := []trust.Requirement{{Component: "b", Versions: ">=2.0"}}
	paused, past, later := rollout("b", "2.0.0"), rollout("b", "2.0.0"), rollout("b", "2.0.0")
	paused.State = topics.EntryPaused
	past.Waves = []topics.Wave{{Threshold: 0, OpensAt: now}} // no open wave covers the device
	later.Waves = []topics.Wave{{Threshold: topics.Buckets, OpensAt: now.Add(time.Minute)}}
	for _, c := range []struct {
		name  string
		other topics.Entry
		state update.State
		want  error
	}{
		{"its turn has come", rollout("b", "2.0.0"), update.Idle, errComing},
		{"its turn will come", later, update.Idle, errComing},
		{"nobody knows whether its turn comes", past, update.Idle, errRequires},
		{"paused", paused, update.Idle, errRequires},
		{"not enough", rollout("b", "1.5.0"), update.Idle, errRequires},
		{"in progress", rollout("b", "2.0.0"), update.Downloading, errComing},
		{"on trial", rollout("b", "2.0.0"), update.Trying, errComing},
		{"in progress, and not enough", rollout("b", "1.5.0"), update.Staged, errRequires},
	} {
		d, _ := several(t, &told{entries: []topics.Entry{rollout("a", "2.0.0"), c.other}}, condition.Config{}, update.Downloading, c.state)
		if err := d.check("a", needs); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestReleasesThatWaitForEachOther: the one that would close the circle is refused, and
// it is said what to do.
func TestReleasesThatWaitForEachOther(t *testing.T) {
	needs := func(component string) []trust.Requirement {
		return []trust.Requirement{{Component: component, Versions: ">=2.0"}}
	}
	w := &told{entries: []topics.Entry{rollout("a", "2.0.0"), rollout("b", "2.0.0"), rollout("c", "2.0.0")}}
	d, drivers := several(t, w, condition.Config{}, update.Downloading, update.Downloading, update.Downloading)
	for _, component := range []string{"a", "b"} {
		next := map[string]string{"a": "b", "b": "c"}[component]
		if err := d.check(component, needs(next)); !errors.Is(err, errComing) {
			t.Fatalf("%s: %v", component, err)
		}
	}
	err := d.check("c", needs("a"))
	if !errors.Is(err, errRequires) || !strings.Contains(err.Error(), "group") {
		t.Fatalf("c: %v", err)
	}
	if slug, final := reasonOf(err); slug != "requires" || !final {
		t.Errorf("%s, %v", slug, final)
	}
	// It has failed: nothing brings c any more, and so nothing b, nor a.
	w.entries = w.entries[:2]
	drivers[2].dep.State = update.Idle
	if err := drivers[2].write(nil); err != nil {
		t.Fatal(err)
	}
	d.moved("c", update.Idle)
	if err := d.check("b", needs("c")); !errors.Is(err, errRequires) {
		t.Errorf("b: %v", err)
	}
}

// TestConditionsOfTheDeviceAreAskedOnce: whoever asks, until it is time to ask again;
// those of a component are its own.
func TestConditionsOfTheDeviceAreAskedOnce(t *testing.T) {
	dir := t.TempDir()
	asked, ask := filepath.Join(dir, "asked"), filepath.Join(dir, "ask")
	if err := os.WriteFile(ask, []byte("#!/bin/sh\necho x >>"+asked+"\nexit 21\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := &told{entries: []topics.Entry{rollout("a", "2.0.0"), rollout("b", "2.0.0")}}
	_, drivers := several(t, w, condition.Config{Facts: []condition.Fact{{Name: "consent", Command: []string{ask}, Again: time.Hour}}}, update.Staged, update.Staged)
	drivers[1].cfg.Conditions = condition.Config{Facts: []condition.Fact{{Name: "idle", Command: []string{"/bin/false"}, Before: "download"}}}
	for range 2 {
		for _, d := range drivers {
			if hold, err := d.allowed(t.Context(), condition.Install); err != nil || hold == nil || hold.Reason != "fact-consent" {
				t.Fatalf("%+v, %v", hold, err)
			}
		}
	}
	data, err := os.ReadFile(asked)
	if err != nil || strings.Count(string(data), "x") != 1 {
		t.Errorf("asked %q, %v", data, err)
	}
	for i, want := range []string{"", "fact-idle"} {
		hold, err := drivers[i].allowed(t.Context(), condition.Download)
		if err != nil || (hold == nil) != (want == "") || hold != nil && hold.Reason != want {
			t.Errorf("before a download: %+v, %v; want %q", hold, err, want)
		}
	}
}

// TestADownloadThatStallsGivesWay: to one that waits, and goes on after it.
func TestADownloadThatStallsGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := NewDevice(idle{}, condition.Config{})
		var loading, calls atomic.Int32
		download := func(takes time.Duration, every time.Duration) func(context.Context, func(int64)) error {
			return func(ctx context.Context, progress func(int64)) error {
				if calls.Add(1); loading.Add(1) != 1 {
					t.Error("two downloads at a time")
				}
				defer loading.Add(-1)
				for begun := time.Now(); time.Since(begun) < takes; progress(1) {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(every):
					}
				}
				return nil
			}
		}
		began := time.Now()
		alone := d.fetch(t.Context(), download(time.Hour, time.Hour)) // nobody waits for it
		if alone != nil || time.Since(began) != time.Hour || calls.Load() != 1 {
			t.Errorf("alone: %v after %v, %d calls", alone, time.Since(began), calls.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		stalled := make(chan error, 1)
		go func() { stalled <- d.fetch(ctx, download(24*time.Hour, 24*time.Hour)) }()
		synctest.Wait()
		began = time.Now()
		if err := d.fetch(t.Context(), download(10*time.Minute, time.Second)); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 11*time.Minute || took > 12*time.Minute {
			t.Errorf("it took %v", took) // a minute of patience, and what it takes
		}
		synctest.Wait()
		if loading.Load() != 1 {
			t.Error("the one that gave way does not go on")
		}
		cancel()
		if err := <-stalled; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

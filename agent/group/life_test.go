package group

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

// life is one update of a device from 1.0.0 to 1.1.0, driven as package deploy does it,
// by the state machine, with kills.
type life struct {
	*device
	sick bool
	// kill decides about each point whether the agent dies there.
	kill func(point string) bool

	// What the journal holds.
	state update.State
	slot  string

	points []string // that were passed
	ended  update.State
}

// killed is what a kill looks like from inside.
type killed struct{ point string }

// live lives through the update, however often it is killed.
func (l *life) live() {
	l.Helper()
	l.state = update.Downloading
	l.at = func(point string) {
		l.points = append(l.points, point)
		if l.kill(point) {
			panic(killed{point})
		}
	}
	for n := 0; l.ended == ""; n++ {
		if n > 60 {
			l.Fatalf("it does not end: %v", l.points)
		}
		l.day()
	}
	l.at = func(string) {}
}

// day is from a start of the agent to its end.
func (l *life) day() {
	l.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
		}
	}()
	l.Boot()
	state, effects, err := update.Resume(l.state, l.group.Trial(l.slot))
	if err != nil {
		l.Fatal(err)
	}
	if (state == update.Failed || state.Harmless()) && l.group.Armed() {
		l.insist(l.group.FallBack)
		if state == update.Staged {
			state, effects, _ = update.Resume(update.Verified, update.NotArmed)
		}
	}
	l.state = state
	for l.ended == "" {
		event := l.perform(effects)
		if event == "" {
			return // it was restarted
		}
		before := l.state
		if l.state, effects, err = update.Step(before, event); err != nil {
			l.Fatal(err)
		}
		if event == update.Closed {
			l.ended = before
		}
	}
}

func (l *life) insist(do func(ctx context.Context) error) {
	l.Helper()
	for n := 0; ; n++ {
		before := l.group
		_, err := l.Do(do)
		if l.group != before {
			n = 0 // by a restart
		} else if err == nil {
			return
		}
		if n > 20 {
			l.Fatal(err)
		}
	}
}

func (l *life) perform(effects []update.Effect) update.Event {
	l.Helper()
	for _, effect := range effects {
		var event update.Event
		switch effect {
		case update.Fetch:
			data := l.Bytes("1.1.0")
			path, err := l.group.Staging(slottest.Image("1.1.0", data).SHA256)
			if err == nil {
				err = os.WriteFile(path, data, 0o600)
			}
			if err != nil {
				l.Fatal(err)
			}
			event = update.Fetched
		case update.Place:
			name, err := l.group.Stage(slottest.Image("1.1.0", l.Bytes("1.1.0")))
			if event = update.Placed; errors.Is(err, slot.ErrNotStaged) {
				event = update.Lost
			} else if err != nil {
				l.Fatal(err)
			}
			l.slot = name
		case update.Await:
			event = update.Jump
		case update.Arm:
			before := l.group
			_, err := l.Do(l.group.Activate)
			if l.group != before {
				return "" // the machine has restarted
			}
			if err != nil {
				event = update.Unhealthy
			}
		case update.Watch:
			event = l.watch()
		case update.Confirm:
			if err := l.group.Confirm(l.Context(), l.slot); errors.Is(err, slot.ErrGivenUp) {
				event = update.Unhealthy
			} else if err != nil {
				l.Fatal(err)
			}
		case update.FallBack:
			before := l.group
			if _, err := l.Do(l.group.FallBack); l.group != before {
				return ""
			} else if err != nil {
				l.Fatal(err)
			}
		case update.Close:
			if event = update.Closed; l.state == update.Committed && l.group.Running().Image.Version != "1.1.0" {
				event = update.Unhealthy
			}
		}
		if event != "" {
			return event
		}
	}
	l.Fatalf("state %s has no outcome", l.state)
	return ""
}

// watch is the verdict about what is on trial.
func (l *life) watch() update.Event {
	event := update.Unhealthy
	devtest.Eventually(l.T, time.Minute, "a verdict", func() error {
		r := l.group.Running()
		switch {
		case r.Slot != l.slot || l.sick:
			return nil
		case !r.Up || r.Busy || r.Image.Version != "1.1.0":
			return fmt.Errorf("%+v", r)
		}
		event = update.Healthy
		return nil
	})
	return event
}

// settles checks that the device runs one version, all of it, for good, and that this is
// what was reported.
func (l *life) settles() {
	l.Helper()
	want, wantSlot := "1.0.0", "a"
	if l.ended == update.Committed {
		want, wantSlot = "1.1.0", "b"
	}
	for range 2 {
		l.Boot()
		r := l.group.Running()
		if r.Image.Version != want || r.Slot != wantSlot || r.Trial || l.group.Armed() {
			l.Fatalf("%s, and the group runs %+v, armed %v; passed %v", l.ended, r, l.group.Armed(), l.points)
		}
		for i, m := range l.group.running() {
			if m.Image.Version != want || m.Trial {
				l.Fatalf("%s, and %s runs %+v; passed %v", l.ended, l.names[i], m, l.points)
			}
		}
	}
}

func never(string) bool { return false }

// fleets are the groups that are killed.
var fleets = [][]string{{"module", "module", "final"}, {"process", "module"}, {"final", "machine"}}

// TestKilledBetweenAnyTwoSteps: once, and whenever it comes there, until the members'
// trials have run out in the middle of it.
func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	for _, kinds := range fleets {
		for _, sick := range []bool{false, true} {
			dry := &life{device: newDevice(t, kinds...), sick: sick, kill: never}
			dry.live()
			dry.settles()
			if want := map[bool]update.State{false: update.Committed, true: update.RolledBack}[sick]; dry.ended != want {
				t.Fatalf("%v: %s", kinds, dry.ended)
			}
			for _, point := range between(dry.points) {
				for _, times := range []int{1, slottest.Tries + 2} {
					if times > 1 && slices.Index(dry.points, point) < slices.Index(dry.points, "after armed") {
						continue // nothing counts the boots yet
					}
					t.Run(fmt.Sprintf("%s sick %v, %d times %s", strings.Join(kinds, "+"), sick, times, point), func(t *testing.T) {
						t.Parallel()
						kills := 0
						l := &life{device: newDevice(t, kinds...), sick: sick, kill: func(p string) bool {
							if p != point || kills == times {
								return false
							}
							kills++
							return true
						}}
						l.live()
						if kills == 0 {
							t.Error("it was never killed")
						}
						if sick && l.ended == update.Committed {
							t.Errorf("what is sick was kept")
						}
						if !sick && times == 1 && l.ended != update.Committed {
							t.Errorf("one kill, and it ended %s", l.ended)
						}
						l.settles()
					})
				}
			}
		}
	}
}

// between lists one point between any two steps: before the first, and after each.
func between(points []string) []string {
	points = slices.DeleteFunc(slices.Clone(points), func(point string) bool {
		return point != points[0] && strings.HasPrefix(point, "before ")
	})
	slices.Sort(points)
	return slices.Compact(points)
}

// TestKilledAnywhereAndOften: the same seed gives the same kills.
func TestKilledAnywhereAndOften(t *testing.T) {
	for _, kinds := range fleets {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(strings.Join(kinds, "+"), " ", seed), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(seed, 1))
				left := 12
				l := &life{device: newDevice(t, kinds...), sick: seed%4 == 3, kill: func(string) bool {
					if left == 0 || random.IntN(6) > 0 {
						return false
					}
					left--
					return true
				}}
				l.live()
				l.settles()
			})
		}
	}
}

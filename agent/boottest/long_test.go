//go:build long

package boottest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
)

// TestASickSystemFallsBack: its agent runs and finds that nobody answers well. The second
// time the power goes when the agent has told GRUB so and the machine is about to
// restart: GRUB must know.
func TestASickSystemFallsBack(t *testing.T) {
	r := newRig(t)
	r.ends(r.rollout(System{Version: "1.1.0", Sick: true}), "rolled_back", first, "b 1.1.0", "a "+first)

	id := r.rollout(System{Version: "1.2.0", Sick: true})
	r.says("userland: slot b, version 1.2.0")
	r.must(r.machine.Listen())
	r.says("the machine restarts")
	r.machine.Cut()
	r.on("")
	r.ends(id, "rolled_back", first, "a "+first)
}

// TestPowerCutsBeforeTheJump: while the slot is being written, and between the arming and
// the restart.
func TestPowerCutsBeforeTheJump(t *testing.T) {
	r := newRig(t)

	r.machine.Cut()
	r.must(r.machine.Listen())
	r.on("throttling.bps-write=10000000") // so that the writing takes seconds
	r.runs(first, "a "+first)
	id := r.rollout(System{Version: "1.1.0"})
	r.written()
	r.machine.Cut()
	if head, _, err := r.machine.SlotB(); err != nil || !zero(head) {
		t.Errorf("the slot was written when the power went, %v", err)
	}
	r.on("")
	r.ends(id, "committed", "1.1.0", "a "+first, "b 1.1.0")

	id = r.rollout(System{Version: "1.2.0"})
	r.says("the machine restarts")
	r.machine.Cut()
	r.on("")
	r.ends(id, "committed", "1.2.0", "a 1.2.0")
}

// TestPowerCutsOnTrial: at every boot of a trial but the last, at all of them, and when the
// agent has found the system healthy.
func TestPowerCutsOnTrial(t *testing.T) {
	r := newRig(t)

	id := r.rollout(System{Version: "1.1.0"})
	r.says("userland: slot b, version 1.1.0")
	r.machine.Cut()
	r.on("")
	r.says("deployment goes on") // it is being watched
	r.machine.Cut()
	r.on("")
	r.ends(id, "committed", "1.1.0", "b 1.1.0", "b 1.1.0", "b 1.1.0")

	id = r.rollout(System{Version: "1.2.0"})
	var boots []string
	for range tries {
		boots = append(boots, "a 1.2.0")
		r.boots(boots...)
		r.machine.Cut()
		r.on("")
	}
	r.ends(id, "rolled_back", "1.1.0", append(boots, "b 1.1.0")...)

	id = r.rollout(System{Version: "1.3.0"})
	r.says(`"event":"healthy"`)
	r.machine.Cut()
	r.on("")
	r.ends(id, "committed", "1.3.0", "a 1.3.0", "a 1.3.0")
}

// TestASystemThatCannotBeLoadedGivesItsPlaceUp: GRUB boots the other one, which mends it with
// the next update.
func TestASystemThatCannotBeLoadedGivesItsPlaceUp(t *testing.T) {
	r := newRig(t)
	r.ends(r.rollout(System{Version: "1.1.0"}), "committed", "1.1.0", "b 1.1.0")
	r.machine.Cut()
	r.must(r.machine.WipeB())
	r.must(r.machine.Listen())
	r.on("")
	r.runs(first, "a "+first)
	r.ends(r.rollout(System{Version: "1.2.0"}), "committed", "1.2.0", "b 1.2.0")
}

// TestAnotherEnvironmentIsNoEndlessRestart: GRUB does not read what the agent writes.
func TestAnotherEnvironmentIsNoEndlessRestart(t *testing.T) {
	r := newRig(t, func(c stack.Config) { c.Set("/boot/grub/another", "machine", "grub_env") })
	r.ends(r.rollout(System{Version: "1.1.0"}), "rolled_back", first, "a "+first)
}

// boots waits until these systems were booted since the rollout began.
func (r *rig) boots(want ...string) {
	r.Helper()
	devtest.Eventually(r, patience, "boots", func() error {
		got, err := r.machine.Boots()
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("booted were %q, not %q", got, want)
		}
		return err
	})
}

// written waits until slot B has been written to in the middle.
func (r *rig) written() {
	r.Helper()
	devtest.Eventually(r, patience, "slot B to be written", func() error {
		_, middle, err := r.machine.SlotB()
		if err == nil && zero(middle) {
			err = errors.New("it is empty")
		}
		return err
	})
}

func zero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

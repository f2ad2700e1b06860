//go:build !race

package rauc

import (
	"context"
	"testing"

	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
)

// powerCut is the end of an agent.
type powerCut struct{}

// cutAt cuts the power before step n of do, and boots; false: do has fewer steps.
func (d *device) cutAt(n int, do func(ctx context.Context) error) (was bool) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	d.reset = cancel
	d.cut = func() {
		if n--; n == 0 {
			panic(powerCut{})
		}
	}
	func() {
		defer func() {
			d.cut = func() {}
			if r := recover(); r != nil {
				if _, was = r.(powerCut); !was {
					panic(r)
				}
			}
		}()
		_ = do(ctx) // which ends with ctx, if it restarts the machine
	}()
	d.Boot()
	return was
}

// TestAPowerCutBetweenAnyTwoSteps finds the slots where they say that they are.
func TestAPowerCutBetweenAnyTwoSteps(t *testing.T) {
	for name, fresh := range map[string]func(t *testing.T) *device{"GRUB": grub, "U-Boot": uboot} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			d.Boot()
			if err := d.put("1.1.0"); err != nil {
				t.Fatal(err)
			}
			activate := func(ctx context.Context) error { return d.slots.Activate(ctx) }
			fallBack := func(ctx context.Context) error { return d.slots.FallBack(ctx) }
			for n := 1; n <= 3; n++ { // what runs is good; the trial is written down; RAUC is told
				if !d.cutAt(n, activate) {
					t.Fatalf("no step %d", n)
				}
				d.stands("a", update.NotArmed, false)
			}
			if !d.cutAt(4, activate) { // that it was told is written down
				t.Fatal("no step 4")
			}
			d.stands("b", update.OnTrial, true)
			for range slottest.Tries {
				d.Boot()
			}
			d.stands("a", update.FellBack, true)
			for n := 1; n <= 3; n++ { // a is active; b is bad; that it was told is written down
				if !d.cutAt(n, fallBack) {
					t.Fatalf("no step %d", n)
				}
				d.stands("a", update.FellBack, true)
			}
			if d.cutAt(4, fallBack) {
				t.Fatal("a fourth step")
			}
			d.stands("a", update.NotArmed, false)

			d.cutAt(5, activate)
			d.stands("b", update.OnTrial, true)
			for n := 1; n <= 2; n++ { // that it is over is written down; a is active
				if !d.cutAt(n, fallBack) {
					t.Fatalf("no step %d", n)
				}
				d.stands("b", update.OnTrial, true)
			}
			if !d.cutAt(3, fallBack) { // b is bad
				t.Fatal("no step 3")
			}
			d.stands("a", update.FellBack, true)
			d.cutAt(9, fallBack)
			d.cutAt(9, activate)
			d.stands("b", update.OnTrial, true)
			d.cutAt(4, fallBack) // that it was told is written down
			d.stands("a", update.FellBack, true)
			d.cutAt(9, fallBack)
			d.cutAt(9, activate)
			confirm := func(ctx context.Context) error { return d.slots.Confirm(ctx, "b") }
			for n := 1; n <= 3; n++ { // it is active; it is good; that is written down
				if !d.cutAt(n, confirm) {
					t.Fatalf("no step %d", n)
				}
				d.stands("b", update.OnTrial, true)
			}
			if d.cutAt(4, confirm) {
				t.Fatal("a fourth step")
			}
			for range slottest.Tries {
				d.Boot()
				d.stands("b", update.OnTrial, false)
			}
		})
	}
}

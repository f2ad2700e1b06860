package rauc

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
)

// stands wants that slot, and that of a trial in b.
func (d *device) stands(running string, trial update.Trial, armed bool) {
	d.Helper()
	r := d.slots.Running()
	if got := d.slots.Trial("b"); r.Slot != running || got != trial || d.slots.Armed() != armed {
		d.Fatalf("slot %s runs, the trial of b is %v, armed %v; want %s, %v, %v", r.Slot, got, d.slots.Armed(), running, trial, armed)
	}
	if r.Slot == "b" && (r.Image.Version != "1.1.0" || r.Image.Release == "") {
		d.Fatalf("%+v runs", r)
	}
}

// TestAVersionInWhichRAUCDoesNotWorkIsLeft: it could never be updated again.
func TestAVersionInWhichRAUCDoesNotWorkIsLeft(t *testing.T) {
	d := staged(t)
	d.without = map[string]bool{"b": true}
	if _, err := d.Do(d.slots.Activate); err != nil {
		t.Fatal(err)
	}
	for boots := 1; ; boots++ {
		if boots > slottest.Tries {
			t.Fatalf("booted %d times", boots)
		}
		if r := d.slots.Running(); r.Slot != "b" || !r.Trial || r.Up {
			t.Fatalf("%+v runs", r)
		}
		if _, err := d.Do(d.slots.FallBack); err != nil {
			t.Fatal(err)
		}
		if d.running == "a" {
			break
		}
	}
	d.stands("a", update.FellBack, true)
}

// TestABootloaderThatCannotCountTriesNothing: what is on trial would have no end.
func TestABootloaderThatCannotCountTriesNothing(t *testing.T) {
	for name, fresh := range map[string]func(t *testing.T) *device{"GRUB": grub, "U-Boot": uboot} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			d.Boot()
			if err := d.put("1.1.0"); err != nil {
				t.Fatal(err)
			}
			d.loader = strings.NewReplacer("save_env() {", "save_env() { return 1;", "saveenv() {", "saveenv() { return 1;").Replace(d.loader)
			if _, err := d.Do(d.slots.Activate); err != nil {
				t.Fatal(err)
			}
			d.stands("a", update.FellBack, true)
		})
	}
}

// TestWhatHasNoTriesLeftGetsThemAgain: but nothing that RAUC has marked bad.
func TestWhatHasNoTriesLeftGetsThemAgain(t *testing.T) {
	for name, fresh := range map[string]func(t *testing.T) *device{"GRUB": grub, "U-Boot": uboot} {
		t.Run(name, func(t *testing.T) {
			d := fresh(t)
			d.Boot()
			if err := d.put("1.1.0"); err != nil {
				t.Fatal(err)
			}
			if name == "GRUB" {
				d.run("grub-editenv", d.path("grubenv"), "set", "ORDER=b a", "a_TRY=3")
			} else {
				d.run(d.path("fw_setenv"), "BOOT_a_LEFT", "0")
			}
			d.Boot()
			d.stands("a", update.NotArmed, false)
			if name == "GRUB" {
				d.run("grub-editenv", d.path("grubenv"), "set", "a_OK=0", "b_OK=1", "b_TRY=3")
			} else {
				d.run(d.path("fw_setenv"), "BOOT_ORDER", "b")
			}
			d.Boot()
			d.stands("b", update.OnTrial, true)
		})
	}
}

// wipe makes a slot one that cannot be loaded.
func (d *device) wipe(name string) {
	d.Helper()
	d.overwrite(name, make([]byte, len(magic)))
}

// TestWhatCannotBeLoadedGivesItsPlaceUp: the bootloader takes the other slot by itself.
func TestWhatCannotBeLoadedGivesItsPlaceUp(t *testing.T) {
	d := staged(t)
	if err := d.slots.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.open("a") // started again before the machine is
	d.stands("a", update.NotArmed, true)
	d.wipe("b")
	d.Boot()
	d.stands("a", update.FellBack, true)
	if _, err := d.Do(d.slots.FallBack); err != nil {
		t.Fatal(err)
	}
	if err := d.put("1.1.0"); err != nil { // which mends it
		t.Fatal(err)
	}
	if _, err := d.Do(d.slots.Activate); err != nil {
		t.Fatal(err)
	}
	if err := d.slots.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	d.wipe("b")
	d.Boot()
	if r := d.slots.Running(); r.Slot != "a" || r.Trial || d.slots.Armed() {
		t.Errorf("%+v runs", r)
	}
	if env := d.run("grub-editenv", d.path("grubenv"), "list"); !strings.Contains(env, "ORDER=a b\n") {
		t.Errorf("the bootloader is told %q", env)
	}
	if err := d.put("1.2.0"); err != nil {
		t.Fatal(err)
	}
	for range slottest.Tries + 1 {
		d.Boot()
	}
	if r := d.slots.Running(); r.Slot != "a" {
		t.Errorf("%+v runs", r)
	}
}

// TestTheFallbackIsNotWritten: while a version is on trial, the slot beside it is all
// that there is to go back to.
func TestTheFallbackIsNotWritten(t *testing.T) {
	d := tried(t)
	before := d.read("a")
	if err := d.put("1.2.0"); !errors.Is(err, ErrOnTrial) {
		t.Errorf("stage: %v", err)
	}
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, ErrOnTrial) {
		t.Errorf("activate: %v", err)
	}
	if !bytes.Equal(before, d.read("a")) {
		t.Error("the fallback was written")
	}
	d.Boot()
	d.stands("b", update.OnTrial, true)
}

// TestWhatRAUCTakesForRunningMustBeThat: or the wrong slot would be written.
func TestWhatRAUCTakesForRunningMustBeThat(t *testing.T) {
	d := staged(t)
	d.startRAUC("b")
	d.unchanged(func() {
		if err := d.put("1.2.0"); !errors.Is(err, slot.ErrInstaller) || !strings.Contains(err.Error(), "command line says a") {
			t.Errorf("stage: %v", err)
		}
		if err := d.slots.arm(t.Context()); !errors.Is(err, slot.ErrInstaller) {
			t.Errorf("activate: %v", err)
		}
	})
}

// TestWhatWasDamagedSinceIsNotBooted: a slot is read again before it is armed.
func TestWhatWasDamagedSinceIsNotBooted(t *testing.T) {
	d := staged(t)
	d.Damage("b")
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrDamaged) {
		t.Errorf("activate: %v", err)
	}
	if d.slots.Armed() {
		t.Error("armed")
	}
	if _, err := d.slots.Stage(slottest.Image("1.1.0", bundle(t, "1.1.0"))); !errors.Is(err, slot.ErrNotStaged) {
		t.Errorf("stage: %v", err)
	}
}

// TestWhatIsPreferredByHandIsNot: nobody boots the idle slot but by a trial.
func TestWhatIsPreferredByHandIsNot(t *testing.T) {
	d := staged(t)
	d.rauc("status", "mark-active", "other")
	d.open("a")
	if err := d.slots.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	d.stands("a", update.NotArmed, false)
}

package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"groundswell/agent/boot"
	"groundswell/agent/disk"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
)

func TestPartitionsBehindGRUBAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return grub(t) })
}

func TestPartitionsBehindUBootAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return uboot(t) })
}

// TestATrialThatCannotBeLoadedIsOver: the bootloader counts it, finds no kernel, and
// takes the other slot; the agent must not try that for ever.
func TestATrialThatCannotBeLoadedIsOver(t *testing.T) {
	d := staged(t)
	if err := d.machine.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := d.read("b")
	if err := os.WriteFile(d.path("b"), append([]byte("dead"), data[4:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	if got := d.machine.Trial("b"); d.machine.Running().Slot != "a" || got != update.FellBack {
		t.Errorf("slot %s runs, the trial is %v", d.machine.Running().Slot, got)
	}
}

// TestWhatCannotBeLoadedGivesItsPlaceUp: the bootloader takes the other slot by itself.
func TestWhatCannotBeLoadedGivesItsPlaceUp(t *testing.T) {
	d := staged(t)
	d.wipe("a")
	d.Boot()
	// It was never proven, so it is put back once; that does not help.
	if r := d.machine.Running(); r.Slot != "b" || !r.Trial || !d.machine.Armed() {
		t.Fatalf("%+v runs", r)
	}
	if _, err := d.Do(d.machine.FallBack); err != nil {
		t.Fatal(err)
	}
	s, err := d.chain.Load(t.Context())
	if r := d.machine.Running(); err != nil || s != (boot.State{Active: "b"}) || r.Slot != "b" || r.Trial {
		t.Fatalf("%+v, %v; %+v runs", s, err, r)
	}
	if err := d.put("1.2.0"); err != nil { // which mends the other one
		t.Fatal(err)
	}
	d.wipe("b")
	d.Boot()
	if r := d.machine.Running(); r.Slot != "a" || r.Image.Version != "1.2.0" {
		t.Errorf("%+v runs", r)
	}
}

func (d *device) wipe(name string) {
	data := d.read(name)
	copy(data, make([]byte, head))
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.Fatal(err)
	}
}

// head is how much of a partition is written last, where Config does not say.
const head = 1 << 20

// TestHalfASystemDoesNotBoot: whatever was written when the power went.
func TestHalfASystemDoesNotBoot(t *testing.T) {
	d := staged(t)
	next := system("1.2.0")
	from := d.path("next")
	// The file ends early, and so does the writing.
	for _, length := range []int{0, 100, head - 1, head, head + 1, 2 << 20, len(next) - 1} {
		if err := os.WriteFile(from, next[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		err := write(disk.OS, d.path("b"), from, int64(len(next)), head)
		if err == nil {
			t.Fatalf("%d bytes: written", length)
		}
		if bytes.HasPrefix(d.read("b"), []byte(magic)) {
			t.Fatalf("%d bytes: it can be loaded", length)
		}
	}
}

func TestAPartitionThatIsTooSmallIsRefused(t *testing.T) {
	d := staged(t)
	if err := os.Truncate(d.path("b"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := d.put("1.2.0"); err == nil || !strings.Contains(err.Error(), "has 1048576 bytes") {
		t.Errorf("got %v", err)
	}
	if err := d.machine.Activate(t.Context()); !errors.Is(err, slot.ErrEmpty) {
		t.Errorf("activate: %v", err)
	}
	d.Boot()
}

// TestTheFallbackIsNotWritten: while a version is on trial, the slot beside it is all
// that there is to go back to.
func TestTheFallbackIsNotWritten(t *testing.T) {
	d := tried(t)
	before := d.read("a")
	if err := d.put("1.2.0"); !errors.Is(err, ErrOnTrial) {
		t.Errorf("stage: %v", err)
	}
	if _, err := d.Do(d.machine.Activate); !errors.Is(err, ErrOnTrial) {
		t.Errorf("activate: %v", err)
	}
	if !bytes.Equal(before, d.read("a")) {
		t.Error("the fallback was written")
	}
	d.Boot()
	if r := d.machine.Running(); r.Slot != "b" || !r.Trial {
		t.Errorf("%+v runs: the trial was ended", r)
	}
}

// TestWhatWasDamagedSinceIsNotBooted: a partition is read again before it is armed.
func TestWhatWasDamagedSinceIsNotBooted(t *testing.T) {
	d := staged(t)
	d.Damage("b")
	if _, err := d.Do(d.machine.Activate); !errors.Is(err, slot.ErrDamaged) {
		t.Errorf("activate: %v", err)
	}
	if d.machine.Armed() {
		t.Error("armed")
	}
}

// TestWhatWasFlashedByHandIsBelieved: the system says what it is.
func TestWhatWasFlashedByHandIsBelieved(t *testing.T) {
	d := tried(t)
	if err := d.machine.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if r := d.machine.Running(); r.Image.Release == "" || !r.Image.Good {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(d.path("b"), append(system("7.0.0"), make([]byte, partition-len(system("7.0.0")))...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	if r := d.machine.Running(); r.Image != (slot.Image{Version: "7.0.0"}) {
		t.Errorf("%+v", r)
	}
}

// TestAnAgentStartedAgainWhileFallingBackGoesOn: the bootloader does not know of a trial
// any more, and what runs is not to stay for that.
func TestAnAgentStartedAgainWhileFallingBackGoesOn(t *testing.T) {
	d := tried(t)
	ctx, cancel := context.WithCancel(t.Context())
	d.reset = cancel // the machine takes its time, and the agent ends
	if err := d.machine.FallBack(ctx); err == nil {
		t.Fatal("it has returned without an error")
	}
	d.boots-- // the same boot
	d.start("b")
	if s, err := d.chain.Load(t.Context()); err != nil || s.Active != "a" || !s.Over || !d.machine.Running().Trial {
		t.Fatalf("%+v, %v; %+v runs", s, err, d.machine.Running())
	}
	if _, err := d.Do(d.machine.FallBack); err != nil || d.machine.Running().Slot != "a" {
		t.Fatalf("%+v runs, %v", d.machine.Running(), err)
	}
	// In another boot it is as ever.
	d.wipe("a")
	d.Boot()
	if s, err := d.chain.Load(t.Context()); err != nil || s != (boot.State{Active: "b"}) {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestABootloaderThatDoesNotTryIsNotAskedForEver: it cannot write its environment, or
// reads another one than the agent writes.
func TestABootloaderThatDoesNotTryIsNotAskedForEver(t *testing.T) {
	d := staged(t)
	if err := d.machine.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.boots-- // the agent is started again before the machine is
	d.start("a")
	if got := d.machine.Trial("b"); got != update.NotArmed {
		t.Errorf("in the same boot the trial is %v", got)
	}
	d.start("a") // in spite of the trial
	if got := d.machine.Trial("b"); got != update.FellBack {
		t.Errorf("in the next boot the trial is %v", got)
	}
	if err := d.machine.FallBack(t.Context()); err != nil || d.machine.Armed() {
		t.Errorf("%v, armed %v", err, d.machine.Armed())
	}
}

// TestATrialIsRememberedUntilTheOldSystemRuns: the journal may not have it, on a disk
// that the new system has filled.
func TestATrialIsRememberedUntilTheOldSystemRuns(t *testing.T) {
	d := staged(t)
	for _, do := range []func(context.Context) error{d.machine.Activate, func(ctx context.Context) error { return d.machine.FallBack(ctx) }} {
		if _, err := d.Do(do); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if r := d.machine.Running(); r.Slot != "a" || d.machine.Trial("b") != update.FellBack || !d.machine.Armed() {
			t.Fatalf("%+v runs, the trial is %v", r, d.machine.Trial("b"))
		}
		d.Boot()
	}
}

// TestATrialIsOneWithoutTheEnvironmentToo: what was never confirmed is still to be
// proven.
func TestATrialIsOneWithoutTheEnvironmentToo(t *testing.T) {
	d := tried(t)
	if err := d.chain.Store(t.Context(), boot.State{Active: "a"}); err != nil {
		t.Fatal(err)
	}
	d.start("b") // the agent, and perhaps the machine
	if r := d.machine.Running(); !r.Trial || d.machine.Trial("b") != update.OnTrial {
		t.Fatalf("%+v runs", r)
	}
	if _, err := d.Do(d.machine.FallBack); err != nil || d.machine.Running().Slot != "a" {
		t.Errorf("%+v runs, %v", d.machine.Running(), err)
	}
}

// unreadable is a bootloader's environment that cannot be read so many times.
type unreadable struct {
	boot.Chain
	times int
}

func (u *unreadable) Load(ctx context.Context) (boot.State, error) {
	if u.times--; u.times >= 0 {
		return boot.State{}, boot.ErrEnvironment
	}
	return u.Chain.Load(ctx)
}

// TestATrialIsOneThoughTheEnvironmentCouldNotBeRead at first: what is on trial must not
// become what boots by itself because of a read that failed.
func TestATrialIsOneThoughTheEnvironmentCouldNotBeRead(t *testing.T) {
	for times := 1; times <= 2; times++ {
		d := tried(t)
		chain := &unreadable{d.chain, times}
		m, err := Open(t.Context(), Config{
			Partitions: map[string]string{"a": d.path("a"), "b": d.path("b")}, Dir: d.path("data"), Chain: chain,
			Running: "b", BootID: "another", Tries: slottest.Tries, Restart: func(context.Context) error { d.reset(); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		// However little was written down of the slot: the environment says it.
		m.images = map[string]slot.Image{}
		if err := m.Adopt(t.Context()); (err != nil) != (times == 2) {
			t.Fatal(err)
		}
		s, err := d.chain.Load(t.Context())
		if err != nil || s.Active != "a" || s.Trial != "b" {
			t.Fatalf("after %d failed reads the bootloader has %+v, %v", times, s, err)
		}
		d.machine = m
		if _, err := d.Do(m.FallBack); err != nil || d.machine.Running().Slot != "a" {
			t.Errorf("after %d failed reads %+v runs, %v", times, d.machine.Running(), err)
		}
	}
}

// TestAMachineWithoutAnEnvironmentIsManaged: it cannot be updated, and says why.
func TestAMachineWithoutAnEnvironmentIsManaged(t *testing.T) {
	d := uboot(t)
	for _, name := range []string{"env-0", "env-1"} {
		if err := os.Rename(d.path(name), d.path(name+".gone")); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(t.Context(), Config{
		Partitions: map[string]string{"a": d.path("a"), "b": d.path("none")}, Dir: d.path("data"), Chain: d.chain, Running: "a", BootID: "x", Tries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Running(); r.Slot != "a" || r.Trial || m.Armed() {
		t.Errorf("%+v", r)
	}
	if _, err := m.Stage(slottest.Image("1.1.0", system("1.1.0"))); !errors.Is(err, boot.ErrEnvironment) {
		t.Errorf("stage: %v", err)
	}
	for _, name := range []string{"env-0", "env-1"} {
		if err := os.Rename(d.path(name+".gone"), d.path(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// condition is a command that GRUB has in its module test.
var condition = regexp.MustCompile(`\[ [^]]* \]`)

// TestAGRUBThatKnowsNoConditionsTriesNothing: what it does not know, it takes for true.
func TestAGRUBThatKnowsNoConditionsTriesNothing(t *testing.T) {
	d := staged(t)
	if err := d.machine.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.loader = strings.Replace(condition.ReplaceAllString(d.loader, "true"), "echo \"groundswell:", ": \"", 1)
	d.Boot()
	if got := d.machine.Trial("b"); d.machine.Running().Slot != "a" || got != update.FellBack {
		t.Errorf("slot %s runs, the trial is %v", d.machine.Running().Slot, got)
	}
}

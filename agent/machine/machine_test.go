package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"groundswell/agent/boot"
	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/agent/update"
)

// device has two partitions that are files, and a bootloader that is the real script,
// run by a shell, on an environment that the bootloader's real tools read and write.
type device struct {
	*testing.T
	dir     string
	chain   boot.Chain
	loader  string // the script; it prints the slot, and the one to take if that cannot be loaded
	boots   int
	machine *Machine
	reset   func() // set while somebody waits for a restart
}

const (
	partition = 8 << 20
	magic     = "BOOT" // without it, nothing can be loaded
)

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// Boot does what the firmware and the bootloader do.
func (d *device) Boot() deploy.Slots {
	d.Helper()
	out, err := exec.Command("/bin/sh", "-c", d.loader).CombinedOutput()
	if err != nil {
		d.Fatalf("boot script: %v\n%s", err, out)
	}
	order := strings.Fields(string(out))
	if len(order) != 2 {
		d.Fatalf("boot script: %q", out)
	}
	for _, name := range order {
		if data := d.read(name); bytes.HasPrefix(data, []byte(magic)) {
			return d.start(name)
		}
	}
	d.Fatalf("neither of %v can be loaded: the device is bricked", order)
	return nil
}

func (d *device) read(name string) []byte {
	d.Helper()
	data, err := os.ReadFile(d.path(name))
	if err != nil {
		d.Fatal(err)
	}
	return data
}

func (d *device) start(name string) deploy.Slots {
	d.Helper()
	d.boots++
	m, err := Open(d.Context(), Config{
		Partitions: map[string]string{"a": d.path("a"), "b": d.path("b")}, Dir: d.path("data"), Chain: d.chain,
		Running: name, BootID: fmt.Sprint("boot-", d.boots), Tries: slottest.Tries,
		Version: func() string { return versionOf(d.read(name)) },
		Restart: func(context.Context) error { d.reset(); return nil },
	})
	if err == nil {
		err = m.Adopt(d.Context())
	}
	if err != nil {
		d.Fatal(err)
	}
	d.machine = m
	return m
}

func (d *device) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	restarted := false
	d.reset = func() {
		restarted = true
		cancel()
	}
	if err := do(ctx); !restarted {
		return d.machine, err
	}
	return d.Boot(), nil
}

var versionLine = regexp.MustCompile(`^BOOT version=(\S+)\n`)

func versionOf(data []byte) string {
	if m := versionLine.FindSubmatch(data); m != nil {
		return string(m[1])
	}
	return ""
}

func (d *device) Bytes(version string) []byte { return system(version) }

// system is a version: longer than what is written last, and not a multiple of it.
func system(version string) []byte {
	data := fmt.Appendf(nil, "%s version=%s\n", magic, version)
	random := rand.NewChaCha8([32]byte{byte(len(version)), version[2]})
	body := make([]byte, 3<<20+12345)
	_, _ = random.Read(body) // never fails
	return append(data, body...)
}

func (d *device) Damage(name string) {
	data := d.read(name)
	data[2<<20] ^= 1
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.Fatal(err)
	}
}

func fresh(t *testing.T) *device {
	t.Helper()
	d := &device{T: t, dir: t.TempDir()}
	if err := os.Mkdir(d.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := append(system("1.0.0"), make([]byte, partition)...)[:partition]
	for name, data := range map[string][]byte{"a": first, "b": make([]byte, partition)} {
		if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// setLine is how GRUB assigns; a shell does without the word.
var setLine = regexp.MustCompile(`\bset ([a-z_]+=)`)

func grub(t *testing.T) *device {
	d := fresh(t)
	block := d.path("grubenv")
	d.chain = boot.GRUB{Path: block}
	d.loader = fmt.Sprintf(`
		load_env() { eval "$(grub-editenv %[1]s list 2>/dev/null | sed -n "s/^\(groundswell_[a-z]*\)=\(.*\)/\1='\2'/p")"; }
		save_env() { grub-editenv %[1]s set "$1=$(eval echo "\$$1")"; }
		`, block) + setLine.ReplaceAllString(boot.ScriptGRUB, "$1") + "\necho $default $fallback | tr 01 ab\n"
	if out, err := exec.Command("grub-editenv", block, "create").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := exec.Command("grub-editenv", block, "set", "saved_entry=two words").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("grub-editenv", block, "list").Output()
		if err != nil || !strings.Contains(string(out), "saved_entry=two words\n") {
			t.Errorf("what else was in the block is gone: %q, %v", out, err)
		}
	})
	return d
}

func uboot(t *testing.T) *device {
	d := fresh(t)
	config := d.path("fw_env.config")
	var lines string
	for i, name := range []string{"env-0", "env-1"} {
		lines += fmt.Sprintf("%s 0x0 0x4000\n", d.path(name))
		if err := os.WriteFile(d.path(name), environment(byte(i), "bootdelay=0"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(config, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	d.chain = boot.UBoot{Config: config}
	d.loader = fmt.Sprintf(`
		setenv() { name="$1"; shift; eval "$name=\"\$*\""; }
		saveenv() { fw_setenv -c %[1]s groundswell_tries "$groundswell_tries"; }
		eval "$(fw_printenv -c %[1]s | sed -n "s/^\(groundswell_[a-z]*\)=\(.*\)/\1='\2'/p")"
		`, config) + boot.ScriptUBoot + "\necho $groundswell_slot $groundswell_other\n"
	t.Cleanup(func() {
		out, err := exec.Command("fw_printenv", "-c", config, "bootdelay").Output()
		if err != nil || string(out) != "bootdelay=0\n" {
			t.Errorf("what else was in the environment is gone: %q, %v", out, err)
		}
	})
	return d
}

// environment is one copy as U-Boot writes it: CRC-32 of the data, a flag that counts,
// and the data.
func environment(flag byte, variables string) []byte {
	data := make([]byte, 0x4000)
	copy(data[5:], variables)
	binary.LittleEndian.PutUint32(data, crc32.ChecksumIEEE(data[5:]))
	data[4] = flag
	return data
}

func TestPartitionsBehindGRUBAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return grub(t) })
}

func TestPartitionsBehindUBootAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return uboot(t) })
}

// put has a device download and stage a version.
func (d *device) put(version string) error {
	data := system(version)
	image := slottest.Image(version, data)
	path, err := d.machine.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		d.Fatal(err)
	}
	_, err = d.machine.Stage(image)
	return err
}

// TestATrialThatCannotBeLoadedIsOver: the bootloader counts it, finds no kernel, and
// takes the other slot; the agent must not try that for ever.
func TestATrialThatCannotBeLoadedIsOver(t *testing.T) {
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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

// TestHalfASystemDoesNotBoot: whatever was written when the power went.
func TestHalfASystemDoesNotBoot(t *testing.T) {
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	next := system("1.2.0")
	from := d.path("next")
	// The file ends early, and so does the writing.
	for _, length := range []int{0, 100, head - 1, head, head + 1, 2 << 20, len(next) - 1} {
		if err := os.WriteFile(from, next[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		err := write(d.path("b"), from, int64(len(next)))
		if err == nil {
			t.Fatalf("%d bytes: written", length)
		}
		if bytes.HasPrefix(d.read("b"), []byte(magic)) {
			t.Fatalf("%d bytes: it can be loaded", length)
		}
	}
}

func TestAPartitionThatIsTooSmallIsRefused(t *testing.T) {
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.machine.Activate); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.machine.Activate); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.machine.Activate); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.machine.Activate); err != nil {
		t.Fatal(err)
	}
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
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	if err := d.machine.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.loader = strings.Replace(condition.ReplaceAllString(d.loader, "true"), "echo \"groundswell:", ": \"", 1)
	d.Boot()
	if got := d.machine.Trial("b"); d.machine.Running().Slot != "a" || got != update.FellBack {
		t.Errorf("slot %s runs, the trial is %v", d.machine.Running().Slot, got)
	}
}

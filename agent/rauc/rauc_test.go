package rauc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

// unchanged wants that nothing is to be seen of what do does.
func (d *device) unchanged(do func()) {
	d.Helper()
	look := func() map[string]string {
		files := map[string]string{"a": string(d.read("a")), "b": string(d.read("b"))}
		for _, name := range []string{"grubenv", "central.raucs", "data/rauc.json"} {
			data, err := os.ReadFile(d.path(name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				d.Fatal(err)
			}
			files[name] = string(data)
		}
		return files
	}
	before := look()
	do()
	for name, data := range look() {
		if data != before[name] {
			d.Errorf("%s has changed", name)
		}
	}
}

// TestAServiceThatIsNotThereIsAskedAgain: RAUC was not started, has crashed, or hangs.
func TestAServiceThatIsNotThereIsAskedAgain(t *testing.T) {
	for name, away := range map[string]func(d *device) (back func()){
		"gone":          func(d *device) func() { kill(d.service); return func() { d.startRAUC("a") } },
		"hangs":         func(d *device) func() { return d.hang(d.service) },
		"the bus hangs": func(d *device) func() { return d.hang(d.bus) },
	} {
		t.Run(name, func(t *testing.T) {
			d := staged(t)
			back := away(d)
			d.unchanged(func() {
				if err := d.put("1.2.0"); !errors.Is(err, slot.ErrUnavailable) || !strings.Contains(err.Error(), "RAUC") {
					t.Errorf("stage: %v", err)
				}
				if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrUnavailable) {
					t.Errorf("activate: %v", err)
				}
				if err := d.slots.Confirm(t.Context(), "a"); !errors.Is(err, slot.ErrUnavailable) {
					t.Errorf("confirm: %v", err)
				}
			})
			if r := d.slots.Running(); r.Slot != "a" || r.Image.Version != "1.0.0" || d.slots.Armed() {
				t.Errorf("%+v runs", r)
			}
			back()
			if err := d.put("1.2.0"); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Do(d.slots.Activate); err != nil || d.slots.Running().Image.Version != "1.2.0" {
				t.Errorf("%+v runs, %v", d.slots.Running(), err)
			}
		})
	}
}

// TestAnAgentThatBeginsBeforeRAUCIsManaged: what runs is marked good once RAUC is there.
func TestAnAgentThatBeginsBeforeRAUCIsManaged(t *testing.T) {
	d := grub(t)
	d.Boot()
	d.run("grub-editenv", d.path("grubenv"), "set", "a_TRY=2")
	kill(d.service)
	s := d.open("a")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if r := s.Running(); r.Slot != "a" || r.Image.Version != "1.0.0" || r.Trial || !r.Up {
		t.Errorf("%+v", r)
	}
	d.startRAUC("a")
	devtest.Eventually(t, devtest.Patience, "a good slot", func() error {
		env, err := exec.Command("grub-editenv", d.path("grubenv"), "list").Output() // RAUC may just be writing it
		if err == nil && !strings.Contains(string(env), "a_TRY=0\n") {
			err = fmt.Errorf("%q", env)
		}
		return err
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWhatRAUCRefusesIsNotInstalled: its own checks stay on, beside those of the agent,
// and it says why.
func TestWhatRAUCRefusesIsNotInstalled(t *testing.T) {
	d := staged(t)
	stranger, err := newKeyPair("stranger")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, compatible, version, release string
		keys                               keyPair
		want                               string
	}{
		{"signed by a stranger", "camera", "1.2.0", "1.2.0", stranger, "signature verification failed"},
		{"made for another device", "toaster", "1.2.0", "1.2.0", keys(t), "Compatible mismatch"},
		{"of another version", "camera", "1.2.0", "1.3.0", keys(t), `version "1.2.0"`},
	} {
		data, err := build(c.compatible, c.version, c.keys)
		if err != nil {
			t.Fatal(err)
		}
		before := d.read("b")
		err = d.putBundle(c.release, data)
		if !errors.Is(err, slot.ErrInstaller) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if string(before) != string(d.read("b")) {
			t.Errorf("%s: it was written", c.name)
		}
	}
	if !strings.Contains(d.slots.Output(), "signature verification failed") {
		t.Errorf("what RAUC said is not kept: %s", d.slots.Output())
	}
	d.Boot()
	if r := d.slots.Running(); r.Slot != "a" || d.slots.Armed() {
		t.Errorf("%+v runs", r)
	}
}

// TestRAUCThatActivatesWhatItInstallsIsRefused: it would boot without a trial.
func TestRAUCThatActivatesWhatItInstallsIsRefused(t *testing.T) {
	d := grub(t)
	d.settings = strings.Replace(d.settings, "activate-installed=false", "activate-installed=true", 1)
	d.Boot()
	if err := d.put("1.1.0"); !errors.Is(err, slot.ErrInstaller) || !strings.Contains(err.Error(), "activate-installed=false") {
		t.Errorf("stage: %v", err)
	}
	d.Boot()
	if r := d.slots.Running(); r.Slot != "a" || r.Trial {
		t.Errorf("%+v runs", r)
	}
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrEmpty) {
		t.Errorf("activate: %v", err)
	}
}

// TestRAUCThatInstallsNothingIsFoundOut: it may be told to skip what it believes to be
// there.
func TestRAUCThatInstallsNothingIsFoundOut(t *testing.T) {
	d := grub(t)
	d.slotted = "install-same=false"
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	d.Damage("b")
	if err := d.put("1.1.0"); !errors.Is(err, slot.ErrInstaller) || !strings.Contains(err.Error(), "install-same") {
		t.Errorf("stage: %v", err)
	}
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrEmpty) {
		t.Errorf("activate: %v", err)
	}
}

// TestAnInstallationGoesOnWithoutTheAgent: the next one waits for its end, and installs
// anew.
func TestAnInstallationGoesOnWithoutTheAgent(t *testing.T) {
	d := grub(t)
	d.Boot()
	d.write("gate", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	d.write("first", string(bundle(t, "1.1.0")))
	go func() { done <- d.slots.service.install(ctx, d.path("first"), func(int, string) {}) }()
	d.installing()
	cancel() // killed
	if err := <-done; err == nil {
		t.Fatal("installed")
	}
	d.open("a")
	if err := d.slots.Confirm(t.Context(), "a"); !errors.Is(err, slot.ErrUnavailable) {
		t.Errorf("while RAUC installs: %v", err)
	}
	before := d.connections()
	go func() { done <- d.put("1.2.0") }()
	devtest.Eventually(t, devtest.Patience, "the agent on the bus", func() error {
		if d.connections() > before || len(done) > 0 {
			return nil
		}
		return errors.New("it is not there")
	})
	if err := os.Remove(d.path("gate")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(d.slots.Activate); err != nil || d.slots.Running().Image.Version != "1.2.0" {
		t.Errorf("%+v runs, %v", d.slots.Running(), err)
	}
}

// installing waits until RAUC installs.
func (d *device) installing() {
	d.Helper()
	devtest.Eventually(d, devtest.Patience, "an installation", func() error {
		_, err := os.Stat(d.path("installing"))
		return err
	})
}

// TestRAUCThatDiesWhileItInstallsIsNotWaitedFor: and what it has begun is not booted.
func TestRAUCThatDiesWhileItInstallsIsNotWaitedFor(t *testing.T) {
	d := staged(t)
	if err := os.Remove(d.path("installing")); err != nil {
		t.Fatal(err)
	}
	d.write("gate", "")
	done := make(chan error, 1)
	go func() { done <- d.put("1.2.0") }()
	d.installing()
	kill(d.service)
	if err := <-done; !errors.Is(err, slot.ErrUnavailable) {
		t.Errorf("stage: %v", err)
	}
	if err := os.Remove(d.path("gate")); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrEmpty) || d.slots.Armed() {
		t.Errorf("activate: %v", err)
	}
	if err := d.put("1.2.0"); err != nil {
		t.Fatal(err)
	}
}

// TestWhatWasInstalledByHandIsNotWhatWasStaged: RAUC and the agent's record disagree.
func TestWhatWasInstalledByHandIsNotWhatWasStaged(t *testing.T) {
	d := staged(t)
	d.write("other.raucb", string(bundle(t, "2.0.0")))
	d.rauc("install", d.path("other.raucb"))
	if _, err := d.Do(d.slots.Activate); !errors.Is(err, slot.ErrDamaged) || !strings.Contains(err.Error(), `"2.0.0"`) {
		t.Errorf("activate: %v", err)
	}
	if d.slots.Armed() {
		t.Error("armed")
	}
	// And somebody has it boot.
	d.rauc("status", "mark-active", "other")
	d.Boot()
	r := d.slots.Running()
	if r.Slot != "b" || r.Image != (slot.Image{Version: "2.0.0"}) || !r.Trial || !d.slots.Armed() {
		t.Errorf("%+v runs: what nobody has proven", r)
	}
	if _, err := d.Do(d.slots.FallBack); err != nil || d.slots.Running().Slot != "a" {
		t.Errorf("%+v runs, %v", d.slots.Running(), err)
	}
}

// TestWithoutRAUCsStatusNothingIsVerified: its file was lost, or lies where only the other
// system finds it.
func TestWithoutRAUCsStatusNothingIsVerified(t *testing.T) {
	d := tried(t)
	if r := d.slots.Running(); r.Image.Release == "" || !r.Up {
		t.Fatalf("%+v", r)
	}
	if err := os.Remove(d.path("central.raucs")); err != nil {
		t.Fatal(err)
	}
	for _, says := range []bool{true, false} {
		d.version = says
		d.startRAUC("b")
		d.start("b")
		image := slot.Image{}
		if says {
			image.Version = "1.1.0"
		}
		d.have(slot.Running{Slot: "b", Image: image, Trial: true}) // and is not up
	}
	if got := d.slots.Trial("b"); got != update.OnTrial {
		t.Errorf("trial: %v", got)
	}
}

// TestATrialIsOneThoughItCouldNotBeRead at first: what is on trial must not be marked good
// because of a read that failed.
func TestATrialIsOneThoughItCouldNotBeRead(t *testing.T) {
	d := tried(t)
	running := d.slots.Running().Slot
	for _, name := range []string{"data/rauc.json", "data/rauc.json.old"} {
		if err := os.Rename(d.path(name), d.path(name)+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(d.path(name), 0o700); err != nil { // which cannot be read as a file
			t.Fatal(err)
		}
	}
	s := d.open(running)
	before, err := os.ReadFile(d.path("grubenv"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(t.Context()); !errors.Is(err, errUnread) {
		t.Errorf("adopt: %v", err)
	}
	if after, err := os.ReadFile(d.path("grubenv")); err != nil || string(after) != string(before) {
		t.Errorf("the bootloader was told something: %v", err)
	}
	for _, name := range []string{"data/rauc.json", "data/rauc.json.old"} {
		if err := errors.Join(os.Remove(d.path(name)), os.Rename(d.path(name)+".away", d.path(name))); err != nil {
			t.Fatal(err)
		}
	}
	d.unchanged(func() {
		if err := s.Adopt(t.Context()); err != nil || !s.Running().Trial {
			t.Errorf("adopt: %v, %+v runs", err, s.Running())
		}
	})
}

package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/internal/devstack/devtest"
)

// device has a module whose component is a file: what it holds runs.
type device struct {
	*testing.T
	dir    string
	cfg    Config
	module *Module
	off    func()
}

// The steps of a module that is well made: each can be called again.
var steps = map[string]string{
	"install":  `cp "$MODULE_ARTIFACT" "$DEVICE/new.part" && mv "$DEVICE/new.part" "$DEVICE/new"`,
	"activate": `[ -e "$DEVICE/old" ] || cp "$DEVICE/runs" "$DEVICE/old"; cp "$DEVICE/new" "$DEVICE/runs.part" && mv "$DEVICE/runs.part" "$DEVICE/runs"`,
	"verify":   `true`,
	"commit":   `rm -f "$DEVICE/old" "$DEVICE/new"`,
	"rollback": `[ ! -e "$DEVICE/old" ] || mv "$DEVICE/old" "$DEVICE/runs"; rm -f "$DEVICE/new"`,
	"version":  `sed -n 's/^version=//p' "$DEVICE/runs"`,
}

func fresh(t *testing.T) *device {
	t.Helper()
	d := &device{T: t, dir: t.TempDir(), off: func() {}}
	d.cfg = Config{
		Scripts: d.path("scripts"), Dir: d.path("module"), Tries: slottest.Tries, StepTime: time.Minute,
		Again: time.Millisecond, Patience: time.Minute, Interval: time.Millisecond,
	}
	if err := os.Mkdir(d.path("scripts"), 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range steps {
		d.step(step, script)
	}
	d.write("runs", d.Bytes("1.0.0"))
	t.Cleanup(func() { d.off() })
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name string, data []byte) {
	d.Helper()
	if err := os.WriteFile(d.path(name), data, 0o700); err != nil {
		d.Fatal(err)
	}
}

func (d *device) step(step, script string) {
	d.Helper()
	d.write("scripts/"+step, fmt.Appendf(nil, "#!/bin/sh\nset -e\nDEVICE=%s\necho \"$MODULE_STEP $MODULE_VERSION\" >>\"$DEVICE/calls\"\n%s\n", d.dir, script))
}

// calls are the steps since the last time, without those that only ask.
func (d *device) calls() []string {
	d.Helper()
	data, err := os.ReadFile(d.path("calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Fatal(err)
	}
	d.write("calls", nil)
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(data)), "\n"), func(call string) bool {
		return call == "" || strings.HasPrefix(call, "version") || strings.HasPrefix(call, "verify")
	})
}

func (d *device) Boot() deploy.Slots {
	d.Helper()
	d.off()
	m, err := Open(d.cfg)
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	d.off = func() {
		cancel()
		<-done
		d.off = func() {}
	}
	if err := m.Ready(d.Context()); err != nil {
		d.Fatal(err)
	}
	m.steps.Lock() // held until the steps of the start are over
	defer m.steps.Unlock()
	d.module = m
	return m
}

func (d *device) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	return d.module, do(d.Context())
}

func (d *device) Bytes(version string) []byte {
	return []byte("version=" + version + "\n" + strings.Repeat("x", 5000))
}

func (d *device) Damage(string) {
	data, err := os.ReadFile(d.module.artifact())
	if err != nil {
		d.Fatal(err)
	}
	data[len(data)/2] ^= 1
	d.write("module/artifact", data)
}

func TestWhatAModuleUpdatesIsLikeSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return fresh(t) })
}

// stage puts a version in place.
func (d *device) stage(version string) {
	d.Helper()
	data := d.Bytes(version)
	image := slottest.Image(version, data)
	path, err := d.module.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err == nil {
		_, err = d.module.Stage(image)
	}
	if err != nil {
		d.Fatal(err)
	}
}

func TestTheStepsAndWhatTheyAreTold(t *testing.T) {
	d := fresh(t)
	d.step("install", `printf '%s|%s|%s|%s|%s' "$MODULE_FROM" "$MODULE_ARTIFACT" "$MODULE_SHA256" "$MODULE_DIR" "$PWD" >"$DEVICE/told"; env | cut -d= -f1 | sort | tr '\n' ' ' >"$DEVICE/names"; `+steps["install"])
	t.Setenv("SECRET", "of the agent")
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.module.Confirm(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := d.calls(); !slices.Equal(got, []string{"install 1.1.0", "activate 1.1.0", "commit 1.1.0"}) {
		t.Errorf("called: %q", got)
	}
	told, err := os.ReadFile(d.path("told"))
	if err != nil {
		t.Fatal(err)
	}
	work := d.path("module/work")
	sum := slottest.Image("1.1.0", d.Bytes("1.1.0")).SHA256
	if want := strings.Join([]string{"1.0.0", d.path("module/artifact"), sum, work, work}, "|"); string(told) != want {
		t.Errorf("told %s, want %s", told, want)
	}
	names, err := os.ReadFile(d.path("names"))
	if err != nil || strings.Contains(string(names), "SECRET") {
		t.Errorf("its environment: %s, %v", names, err)
	}
}

func TestAStepThatFailsIsRolledBack(t *testing.T) {
	for step, want := range map[string][]string{
		"install":  {"install 1.1.0", "rollback 1.1.0"},
		"activate": {"install 1.1.0", "activate 1.1.0", "rollback 1.1.0"},
	} {
		d := fresh(t)
		d.step(step, steps[step]+"\necho out of flux; exit 3")
		d.Boot()
		d.stage("1.1.0")
		if err := d.module.Activate(t.Context()); err == nil || !strings.Contains(err.Error(), step+": exit status 3") {
			t.Errorf("%s: %v", step, err)
		}
		if got := d.calls(); !slices.Equal(got, want) {
			t.Errorf("%s: called %q", step, got)
		}
		if r := d.module.Running(); r.Image.Version != "1.0.0" || r.Slot != "a" || r.Trial {
			t.Errorf("%s: %+v runs", step, r)
		}
		if !strings.Contains(d.module.Output(), "out of flux") {
			t.Errorf("%s: output %q", step, d.module.Output())
		}
	}
}

func TestAStepThatIsNotReadyIsAskedAgain(t *testing.T) {
	d := fresh(t)
	later := `n=$(cat "$DEVICE/n-$MODULE_STEP" 2>/dev/null || echo 0); echo $((n+1)) >"$DEVICE/n-$MODULE_STEP"; [ $n -ge 2 ] || exit 21
`
	for _, step := range []string{"install", "activate", "commit", "rollback"} {
		d.step(step, later+steps[step])
	}
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.module.FallBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	i, a, r := "install 1.1.0", "activate 1.1.0", "rollback 1.1.0"
	if got := d.calls(); !slices.Equal(got, []string{i, i, i, a, a, a, r, r, r}) {
		t.Errorf("called: %q", got)
	}
	d.cfg.Patience = time.Nanosecond
	d.step("install", "exit 21")
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); !errors.Is(err, errLater) {
		t.Errorf("without patience: %v", err)
	}
}

// TestAStepThatHangsIsKilledWithItsChildren: and has failed.
func TestAStepThatHangsIsKilledWithItsChildren(t *testing.T) {
	d := fresh(t)
	d.cfg.StepTime = 300 * time.Millisecond
	d.step("activate", `sleep 1000 & echo $! >"$DEVICE/child"; wait`)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err == nil || !strings.Contains(err.Error(), "activate: killed after 300ms") {
		t.Errorf("got %v", err)
	}
	child, err := os.ReadFile(d.path("child"))
	if err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "its child to end", func() error {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("%s", stat)
		}
		return nil
	})
}

// TestWhatIsOnTrialIsUpWhenTheModuleSaysSo: verify says yes, and the version is the
// one that was activated.
func TestWhatIsOnTrialIsUpWhenTheModuleSaysSo(t *testing.T) {
	d := fresh(t)
	d.step("verify", `[ -e "$DEVICE/well" ]`)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := func(want bool) {
		t.Helper()
		devtest.Eventually(t, 0, fmt.Sprint("up: ", want), func() error {
			if r := d.module.Running(); r.Up != want || r.Slot != "b" {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	up(false)
	d.write("well", nil)
	up(true)
	d.write("runs", d.Bytes("7.0.0"))
	up(false)
}

func TestWhatWasChangedByHandIsBelieved(t *testing.T) {
	d := fresh(t)
	d.write("runs", d.Bytes("7.0.0"))
	d.Boot()
	if r := d.module.Running(); r.Image != (slot.Image{Version: "7.0.0"}) {
		t.Errorf("%+v runs", r)
	}
	if err := os.Remove(d.path("scripts/version")); err != nil {
		t.Fatal(err)
	}
	d.cfg.Initial = "1.2.3"
	d.Boot()
	if r := d.module.Running(); r.Image != (slot.Image{Version: "1.2.3"}) {
		t.Errorf("%+v runs", r)
	}
}

func TestADirectoryThatIsNoModuleIsRefused(t *testing.T) {
	for _, step := range required {
		d := fresh(t)
		if err := os.Chmod(d.path("scripts/"+step), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d.cfg); !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), step+" is not executable") {
			t.Errorf("%s: %v", step, err)
		}
		if err := os.Remove(d.path("scripts/" + step)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d.cfg); !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), step) {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// TestKilledAtAnyStep: the agent ends while a step runs, before and after it has done
// its work; what is reported to run is what runs, and in the end that is whole.
func TestKilledAtAnyStep(t *testing.T) {
	for _, step := range []string{"install", "activate", "commit", "rollback"} {
		for _, when := range []string{"before", "after"} {
			d := fresh(t)
			hang := `[ -e "$DEVICE/free" ] || { touch "$DEVICE/hangs"; sleep 1000; }`
			script := hang + "\n" + steps[step]
			if when == "after" {
				script = steps[step] + "\n" + hang
			}
			d.step(step, script)
			d.Boot()
			d.stage("1.1.0")
			ctx, kill := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if d.module.Activate(ctx) != nil {
					return
				}
				if step == "rollback" {
					_ = d.module.FallBack(ctx)
				} else {
					_ = d.module.Confirm(ctx, "b") // hangs until the step is killed
				}
			}()
			devtest.Eventually(t, 0, step+" to hang", func() error {
				_, err := os.Stat(d.path("hangs"))
				return err
			})
			// What the kernel does when the agent is killed: this one process ends.
			d.write("free", nil)
			kill()
			d.killSteps()
			<-ended
			s := d.Boot()
			r := s.Running()
			data, err := os.ReadFile(d.path("runs"))
			if err != nil || string(data) != string(d.Bytes(r.Image.Version)) {
				t.Errorf("killed %s %s: %s is said to run, %.20q does, %v", when, step, r.Image.Version, data, err)
			}
			want := map[string]string{"install": "1.1.0", "activate": "1.1.0", "commit": "1.1.0", "rollback": "1.0.0"}[step]
			if r.Image.Version != want {
				t.Errorf("killed %s %s: %s runs", when, step, r.Image.Version)
			}
		}
	}
}

// killSteps ends the steps that hang.
func (d *device) killSteps() {
	d.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && strings.Contains(string(line), "MODULE_DIR="+d.path("module/work")) {
			var pid int
			if _, err := fmt.Sscan(e.Name(), &pid); err == nil {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill() // it may have ended
				}
			}
		}
	}
}

// TestWhatWasDamagedIsNotActivatedAgain: between two starts on trial.
func TestWhatWasDamagedIsNotActivatedAgain(t *testing.T) {
	d := fresh(t)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Damage("b")
	d.calls()
	d.Boot()
	if r := d.module.Running(); r.Image.Version != "1.0.0" || r.Trial {
		t.Errorf("%+v runs", r)
	}
	if got := d.calls(); !slices.Equal(got, []string{"rollback 1.1.0"}) {
		t.Errorf("called: %q", got)
	}
}

// TestAFileThatIsNotWhatWasStagedIsNotActivated: the power went after it was moved, and
// before that was written down.
func TestAFileThatIsNotWhatWasStagedIsNotActivated(t *testing.T) {
	d := fresh(t)
	d.Boot()
	d.stage("1.1.0")
	d.write("module/artifact", d.Bytes("1.2.0"))
	d.Boot()
	if err := d.module.Activate(t.Context()); !errors.Is(err, slot.ErrDamaged) {
		t.Errorf("got %v", err)
	}
	if got := d.calls(); len(got) != 0 {
		t.Errorf("called: %q", got)
	}
}

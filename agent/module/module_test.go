package module

import (
	"context"
	"errors"
	"fmt"
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

func TestWhatAModuleUpdatesIsLikeSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return fresh(t) })
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
	t.Parallel()
	d := fresh(t)
	d.cfg.StepTime = 10 * time.Second // for the other steps as well
	d.step("activate", `sleep 1000 & echo $! >"$DEVICE/child"; wait`)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err == nil || !strings.Contains(err.Error(), "activate: killed after 10s") {
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

// TestACommitThatWasBegunIsFinished: what rollback would need may be gone by then.
func TestACommitThatWasBegunIsFinished(t *testing.T) {
	for name, finish := range map[string]func(d *device) error{
		"confirmed":   func(d *device) error { return d.module.Confirm(d.Context(), "b") },
		"fallen back": func(d *device) error { return d.module.FallBack(d.Context()) },
	} {
		d := fresh(t)
		d.cfg.Tries = 1
		d.step("commit", steps["commit"]+"\n[ -e \"$DEVICE/free\" ] || exit 3")
		d.Boot()
		d.stage("1.1.0")
		if err := d.module.Activate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.module.Confirm(t.Context(), "b"); err == nil {
			t.Fatal("confirmed")
		}
		d.calls()
		d.Boot()
		if r := d.module.Running(); r.Slot != "b" || r.Image.Version != "1.1.0" || d.module.Trial("b") != update.OnTrial {
			t.Fatalf("%s: %+v runs", name, r)
		}
		d.write("free", nil)
		if err := finish(d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := d.calls(); !slices.Equal(got, []string{"commit 1.1.0"}) {
			t.Errorf("%s: called %q", name, got)
		}
		d.Boot()
		if r := d.module.Running(); r.Slot != "b" || r.Image.Version != "1.1.0" || r.Trial {
			t.Errorf("%s: %+v runs", name, r)
		}
	}
}

// TestARollbackThatFailsIsGivenUp: and another release can be taken.
func TestARollbackThatFailsIsGivenUp(t *testing.T) {
	d := fresh(t)
	d.step("rollback", "exit 3")
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range maxFailed {
		if i == 2 {
			d.Boot() // which tries as well
			continue
		}
		err := d.module.FallBack(t.Context())
		if last := i == maxFailed-1; (err == nil) != last {
			t.Fatalf("time %d: %v", i, err)
		}
	}
	if d.module.Armed() {
		t.Error("still armed")
	}
	d.step("rollback", steps["rollback"])
	d.stage("1.2.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestWhatAStepStartsMayGoOn: a daemon, that has what the step prints to.
func TestWhatAStepStartsMayGoOn(t *testing.T) {
	d := fresh(t)
	d.step("activate", steps["activate"]+"\nsleep 1000 &")
	t.Cleanup(d.killSteps)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := d.module.Running(); r.Image.Version != "1.1.0" || !r.Up {
		t.Errorf("%+v runs", r)
	}
}

// TestWhatIsBeingInstalledDoesNotRunYet: nor is it asked whether it is well.
func TestWhatIsBeingInstalledDoesNotRunYet(t *testing.T) {
	d := fresh(t)
	d.step("install", `touch "$DEVICE/hangs"; until [ -e "$DEVICE/free" ]; do sleep 0.01; done; `+steps["install"])
	d.step("verify", `[ ! -e "$DEVICE/hangs" ] || [ -e "$DEVICE/free" ] || touch "$DEVICE/disturbed"`)
	d.Boot()
	d.stage("1.1.0")
	done := make(chan error, 1)
	go func() { done <- d.module.Activate(d.Context()) }()
	devtest.Eventually(t, 0, "install to be called", func() error {
		_, err := os.Stat(d.path("hangs"))
		return err
	})
	if r := d.module.Running(); r.Image.Version != "1.0.0" || !r.Busy || r.Up {
		t.Errorf("%+v runs", r)
	}
	time.Sleep(20 * d.cfg.Interval) // in which it would have been asked
	d.write("free", nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r := d.module.Running(); r.Image.Version != "1.1.0" || r.Busy || !r.Up {
		t.Errorf("%+v runs", r)
	}
	if _, err := os.Stat(d.path("disturbed")); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was asked while it was being installed")
	}
}

func TestAnOptionalStepThatCannotBeCalledIsRefused(t *testing.T) {
	for _, step := range []string{"verify", "commit", "version"} {
		d := fresh(t)
		if err := os.Chmod(d.path("scripts/"+step), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(d.cfg); !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), step) {
			t.Errorf("%s: %v", step, err)
		}
	}
}

// TestATrialThatWasNotBegunIsForgotten: whether it may still be activated is for others
// to say.
func TestATrialThatWasNotBegunIsForgotten(t *testing.T) {
	d := fresh(t)
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.arm(); err != nil {
		t.Fatal(err)
	}
	d.Boot()
	if r := d.module.Running(); r.Image.Version != "1.0.0" || d.module.Armed() || len(d.calls()) != 0 {
		t.Errorf("%+v runs, armed %v", r, d.module.Armed())
	}
}

// TestAnAnswerThatIsNoVersionIsAFailure: it would make every heartbeat of the device
// invalid.
func TestAnAnswerThatIsNoVersionIsAFailure(t *testing.T) {
	for _, answer := range []string{"v1.1.0", "1.1.0 (built today)", "modem is busy"} {
		d := fresh(t)
		d.cfg.Initial = "1.0.0"
		d.step("version", `echo '`+answer+`'`)
		d.Boot()
		if r := d.module.Running(); r.Image.Version != "1.0.0" { // as far as is known
			t.Errorf("%q: %+v runs", answer, r)
		}
		d.stage("1.1.0")
		if err := d.module.Activate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := d.module.Running(); r.Up {
			t.Errorf("%q: %+v is well", answer, r)
		}
	}
}

// TestACommitThatFailsForGoodIsGivenUp: what is on trial stays, and the device can be
// updated.
func TestACommitThatFailsForGoodIsGivenUp(t *testing.T) {
	d := fresh(t)
	d.step("commit", "exit 1")
	d.Boot()
	d.stage("1.1.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range maxFailed {
		if i == 2 {
			d.Boot() // they are counted durably
		}
		err := d.module.Confirm(t.Context(), "b")
		if last := i == maxFailed-1; (err == nil) != last {
			t.Fatalf("time %d: %v", i, err)
		}
	}
	d.Boot()
	if r := d.module.Running(); r.Slot != "b" || r.Image.Version != "1.1.0" || r.Trial || d.module.Armed() {
		t.Errorf("%+v runs, armed %v", r, d.module.Armed())
	}
	d.step("commit", steps["commit"])
	d.stage("1.2.0")
	if err := d.module.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.module.Confirm(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

package slot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

type machine struct {
	t    *testing.T
	dir  *Dir
	cfg  Config
	s    *Supervised
	stop func()
}

// newMachine provisions 1.0.0.
func newMachine(t *testing.T) *machine {
	dir, err := OpenDir(filepath.Join(t.TempDir(), "slots"))
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Provision(agenttest.Firmware(t, "1.0.0", "healthy").Path, "1.0.0"); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, cfg: Config{Addr: "127.0.0.1:0", Tries: 3}}
	t.Cleanup(func() { m.off() })
	return m
}

// on starts the supervisor, as a start of the agent does.
func (m *machine) on() {
	m.t.Helper()
	m.off()
	m.cfg.BackoffMin, m.cfg.BackoffMax = time.Millisecond, 10*time.Millisecond
	m.s = New(m.dir, m.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.s.Run(ctx) }()
	m.stop = func() { cancel(); <-done }
	if err := m.s.Ready(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) off() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// write puts bytes where a download would.
func (m *machine) write(sha256 string, data []byte) {
	m.t.Helper()
	path, err := m.dir.Staging(sha256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) stage(version, mode string) Image {
	m.t.Helper()
	a := agenttest.Firmware(m.t, version, mode)
	m.write(a.SHA256, a.Bytes)
	image := Image{Version: version, Release: "camera", SHA256: a.SHA256, Length: int64(len(a.Bytes))}
	if _, err := m.dir.Stage(image); err != nil {
		m.t.Fatal(err)
	}
	return image
}

// try stages a version and puts it on trial.
func (m *machine) try(version, mode string) {
	m.t.Helper()
	m.stage(version, mode)
	if err := m.s.Activate(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
}

// answers waits until the firmware of a version answers.
func (m *machine) answers(version string) {
	m.t.Helper()
	devtest.Eventually(m.t, 0, version+" to answer", func() error {
		r := m.s.Running()
		resp, err := http.Get("http://" + r.Addr + "/healthz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if want := version + " " + r.BootID; strings.TrimSpace(string(body)) != want || r.Image.Version != version {
			return fmt.Errorf("%s answers, %s is said to run", body, r.Image.Version)
		}
		return nil
	})
}

func TestTrialBecomesActiveOnlyWhenConfirmed(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.answers("1.0.0")
	before := m.s.Running()
	m.stage("1.1.0", "healthy")
	if m.s.Trial("b") != update.NotArmed {
		t.Fatal("armed by staging")
	}
	if err := m.s.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.answers("1.1.0")
	if r := m.s.Running(); !r.Trial || r.Slot != "b" || r.BootID == before.BootID {
		t.Fatalf("running %+v", r)
	}
	if slot, image, err := m.dir.Active(); slot != "a" || image.Version != "1.0.0" || err != nil {
		t.Fatalf("active is %s, %+v, %v", slot, image, err)
	}
	if m.s.Trial("b") != update.OnTrial {
		t.Fatal("not on trial")
	}
	for range 2 { // safe to repeat
		if err := m.s.Confirm(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	if slot, image, _ := m.dir.Active(); slot != "b" || image.Version != "1.1.0" {
		t.Fatalf("active is %s, %+v", slot, image)
	}
	m.on()
	m.answers("1.1.0")
	if m.s.Running().Trial || m.s.Trial("b") != update.OnTrial {
		t.Fatal("still on trial after the confirmation")
	}
}

func TestFallBackBootsTheOldVersionAndNeverTheNewOneAgain(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.2.0", "sick")
	for range 2 { // safe to repeat
		if err := m.s.FallBack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.answers("1.0.0")
	if err := os.Remove(filepath.Join(m.dir.path, "a", "artifact")); err != nil {
		t.Fatal(err)
	}
	m.on()
	if r := m.s.Running(); r.Up {
		t.Fatalf("a version that failed its trial runs: %+v", r)
	}
}

func TestTrialThatCrashesRunsOutOfTriesByItself(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.2.0", "crash")
	m.answers("1.0.0") // nobody called FallBack
	if got := m.s.Trial("b"); got != update.FellBack {
		t.Fatalf("trial: %v", got)
	}
	if n := strings.Count(m.s.Output(), "firmware 1.2.0"); n != 3 {
		t.Errorf("it was launched %d times", n)
	}
	m.on()
	m.answers("1.0.0")
	if got := m.s.Trial("b"); got != update.FellBack {
		t.Fatalf("after a restart: %v", got)
	}
}

func TestBootsOfATrialAreCountedOverRestarts(t *testing.T) {
	m := newMachine(t)
	m.stage("1.1.0", "healthy")
	if err := m.dir.Arm(3); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1.1.0", "1.1.0", "1.1.0", "1.0.0", "1.0.0"} {
		m.on()
		m.answers(want)
	}
}

func TestDamagedArtifactIsNeverRun(t *testing.T) {
	damage := func(t *testing.T, m *machine, slot string) {
		path := m.dir.file(slot, "artifact")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Replace(data, []byte("mode="), []byte("mode_"), 1), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("on trial: the active one boots", func(t *testing.T) {
		m := newMachine(t)
		m.stage("1.1.0", "healthy")
		if err := m.dir.Arm(3); err != nil {
			t.Fatal(err)
		}
		damage(t, m, "b")
		m.on()
		m.answers("1.0.0")
		if m.s.Trial("b") != update.FellBack {
			t.Error("the trial is not over")
		}
	})
	t.Run("active: the one that was good before boots", func(t *testing.T) {
		m := newMachine(t)
		m.on()
		m.stage("1.1.0", "healthy")
		if err := m.s.Activate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.s.Confirm(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		m.off()
		damage(t, m, "b")
		m.on()
		m.answers("1.0.0")
		if m.dir.Idle() != "b" {
			t.Error("the next version would go over the one that runs")
		}
	})
	t.Run("active, and the other never confirmed: nothing", func(t *testing.T) {
		m := newMachine(t)
		m.stage("1.1.0", "healthy")
		damage(t, m, "a")
		m.on()
		if r := m.s.Running(); r.Up {
			t.Errorf("running %+v", r)
		}
	})
}

func TestStagingRefusesOtherBytes(t *testing.T) {
	m := newMachine(t)
	a := agenttest.Firmware(t, "1.1.0", "healthy")
	image := Image{Version: "1.1.0", SHA256: a.SHA256, Length: int64(len(a.Bytes))}
	if _, err := m.dir.Stage(image); !errors.Is(err, ErrNotStaged) {
		t.Fatalf("nothing there: %v", err)
	}
	m.write(a.SHA256, a.Bytes[:1000])
	if _, err := m.dir.Stage(image); !errors.Is(err, ErrNotStaged) || !errors.Is(err, ErrDamaged) {
		t.Fatalf("a part: %v", err)
	}
	m.write(a.SHA256, a.Bytes)
	for range 2 { // the second time it is in place already
		if slot, err := m.dir.Stage(image); err != nil || slot != "b" {
			t.Fatalf("%s, %v", slot, err)
		}
	}
	// Killed between the two last steps.
	if err := os.Remove(m.dir.file("b", "image.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.dir.Stage(image); err != nil {
		t.Fatal(err)
	}
}

func TestPartOfAnotherArtifactIsRemoved(t *testing.T) {
	m := newMachine(t)
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	m.write(one, []byte("part"))
	m.write(one, []byte("part, longer"))
	path, err := m.dir.Staging(one)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "part, longer" {
		t.Fatalf("own part: %q, %v", data, err)
	}
	m.write(two, []byte("other"))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("part of the first: %v", err)
	}
	if err := m.dir.Discard(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.dir.path, "*", "staging*")); left != nil {
		t.Fatalf("left: %v", left)
	}
}

func TestProvisioningNeverReplacesWhatIsThere(t *testing.T) {
	m := newMachine(t)
	if err := m.dir.Provision(agenttest.Firmware(t, "0.1.0", "healthy").Path, "0.1.0"); err != nil {
		t.Fatal(err)
	}
	if _, image, _ := m.dir.Active(); image.Version != "1.0.0" {
		t.Fatalf("active is %+v", image)
	}
}

// A descriptor that the agent was started with, as a socket by its supervisor.
func TestDescriptorsOfTheAgentAreNotHandedOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o600) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	m := newMachine(t)
	m.on()
	m.answers("1.0.0")
	s, ok := m.dir.session()
	if !ok {
		t.Fatal("no session")
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.ID))
	if err != nil || len(links) < 3 {
		t.Fatalf("%v, %v", links, err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == path {
			t.Errorf("%s is %s", link, target)
		}
	}
}

func TestNothingOfTheComponentOutlivesTheAgent(t *testing.T) {
	m := newMachine(t)
	m.on()
	m.try("1.1.0", "child")
	m.answers("1.1.0")
	var child int
	devtest.Eventually(t, 0, "the word of a child", func() error { // which comes by another way than the answer
		_, line, _ := strings.Cut(m.s.Output(), "child ")
		_, err := fmt.Sscanln(line, &child)
		return err
	})
	m.off()
	devtest.Eventually(t, 0, "the child's end", func() error {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(data), ") Z ") || errors.Is(syscall.Kill(child, 0), syscall.ESRCH) {
			return nil
		}
		return fmt.Errorf("still there: %s", data)
	})
}

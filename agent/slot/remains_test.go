package slot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/internal/devstack/devtest"
)

// TestMain lets the tests run this very binary as an agent that supervises the
// slots in SLOT_TEST_DIR until it is killed.
func TestMain(m *testing.M) {
	path := os.Getenv("SLOT_TEST_DIR")
	if path == "" {
		os.Exit(m.Run())
	}
	dir, err := OpenDir(path)
	if err == nil {
		err = New(dir, strayConfig(os.Getenv("SLOT_TEST_ADDR"), os.Getenv("STRAYS"))).Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func strayConfig(addr, strays string) Config {
	return Config{Addr: addr, Tries: 3, Env: map[string]string{"STRAYS": strays, MarkName: "forged"}}
}

// strayMachine has a fixed port and a version in it whose children stray.
func strayMachine(t *testing.T) (m *machine, strays func() []int) {
	t.Helper()
	dir, err := OpenDir(filepath.Join(t.TempDir(), "slots"))
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Provision(agenttest.Firmware(t, "1.0.0", "strays").Path, "1.0.0"); err != nil {
		t.Fatal(err)
	}
	addr, err := resolve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "strays")
	m = &machine{t: t, dir: dir, cfg: strayConfig(addr, file)}
	var all []int
	t.Cleanup(func() {
		m.off()
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGKILL) // most are gone: that is what is tested
		}
	})
	return m, func() []int {
		t.Helper()
		list := make([]int, 2)
		devtest.Eventually(t, 0, "the strays", func() error {
			data, err := os.ReadFile(file)
			if err == nil {
				_, err = fmt.Sscan(string(data), &list[0], &list[1])
			}
			return err
		})
		all = append(all, list...)
		if err := os.Remove(file); err != nil { // the next launch has its own
			t.Fatal(err)
		}
		return list
	}
}

func mustRun(t *testing.T, pids []int, want bool) {
	t.Helper()
	for i, pid := range pids {
		if _, runs, err := readTask(pid); runs != want || err != nil {
			t.Errorf("stray %d runs: %v, %v", i, runs, err)
		}
	}
}

func TestOldVersionsChildDoesNotAnswerForTheNewOne(t *testing.T) {
	m, strays := strayMachine(t)
	m.on()
	m.answers("1.0.0")
	old := strays()
	mustRun(t, old, true)
	m.try("1.1.0", "deaf")
	mustRun(t, old, false)
	if resp, err := http.Get("http://" + m.cfg.Addr + "/healthz"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("who answers for 1.1.0? %v, %v", resp, err)
	}
	if err := m.s.FallBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.answers("1.0.0")
	m.off()
	mustRun(t, strays(), false)
}

func TestChildrenThatOutliveAKilledAgentEndBeforeTheNextLaunch(t *testing.T) {
	m, strays := strayMachine(t)
	agent := exec.Command(os.Args[0])
	agent.Env = append(os.Environ(), "SLOT_TEST_DIR="+m.dir.path, "SLOT_TEST_ADDR="+m.cfg.Addr, "STRAYS="+m.cfg.Env["STRAYS"])
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	get := func() (string, error) {
		resp, err := http.Get("http://" + m.cfg.Addr + "/healthz")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	devtest.Eventually(t, 0, "1.0.0 to answer", func() error { _, err := get(); return err })
	devtest.Eventually(t, 0, "the session to be written down", func() error {
		if _, ok := m.dir.session(); !ok {
			return errors.New("not yet")
		}
		return nil
	})
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // killed
	old := strays()
	mustRun(t, old, true)
	if body, err := get(); err != nil || !strings.HasPrefix(body, "1.0.0 ") {
		t.Fatalf("premise: the orphan keeps the port: %q, %v", body, err)
	}
	m.stage("1.1.0", "deaf")
	if err := m.dir.Arm(1); err != nil {
		t.Fatal(err)
	}
	m.on()
	if r := m.s.Running(); !r.Up || !r.Trial {
		t.Fatalf("running %+v", r)
	}
	mustRun(t, old, false)
	if body, err := get(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("who answers for 1.1.0? %q, %v", body, err)
	}
}

// Numbers of processes are given away again, and the next owner is left alone.
func TestStrangersAreLeftAlone(t *testing.T) {
	m := newMachine(t)
	stranger := exec.Command("/bin/sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()
	pid := stranger.Process.Pid
	for name, change := range map[string]func(*session){
		"one that began later under the number": func(s *session) { s.Start-- },
		"one of another boot or container":      func(s *session) { s.Host += "x" },
	} {
		if err := m.dir.launched(pid); err != nil {
			t.Fatal(err)
		}
		s, _ := m.dir.session()
		if found, err := m.dir.remains(); err != nil || len(found) != 1 || found[0].pid != pid {
			t.Fatalf("premise: %v, %v", found, err)
		}
		change(&s)
		if err := m.dir.writeJSON(filepath.Join(m.dir.path, "session.json"), s); err != nil {
			t.Fatal(err)
		}
		if found, err := m.dir.remains(); err != nil || len(found) != 0 {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	if err := m.dir.clear(0); err != nil {
		t.Fatal(err)
	}
	mustRun(t, []int{pid}, true)
}

// stuck is where something of an earlier launch cannot be ended.
type stuck struct{ processes }

func (*stuck) Clear() error { return errors.New("in a driver") }

// A version on trial is not launched beside what might answer for it; one that
// needs no proof is.
func TestNoTrialBesideWhatCannotBeEnded(t *testing.T) {
	m := newMachine(t)
	m.stage("1.1.0", "healthy")
	if err := m.dir.Arm(3); err != nil {
		t.Fatal(err)
	}
	m.cfg.Launcher = &stuck{processes{dir: m.dir, cfg: m.cfg, output: io.Discard}}
	m.on()
	m.answers("1.0.0")
	if r := m.s.Running(); r.Trial {
		t.Errorf("running %+v", r)
	}
	if n := strings.Count(m.s.Output(), "firmware 1.1.0"); n != 0 {
		t.Errorf("it was launched %d times", n)
	}
}

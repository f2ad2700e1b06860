package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

// running is the demo as its own process, as `make demo` starts it.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string // its temporary folder, which it must leave empty
	out    string // demo.json
	marker string // in the environment of it and of all that it starts
	mu     sync.Mutex
	text   bytes.Buffer
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func startDemo(t *testing.T, flags ...string) *running {
	t.Helper()
	program, err := devstack.Program(t.Context(), "./internal/demo")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "demo-") // short: sockets live below it
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, dir: dir, out: filepath.Join(t.TempDir(), "demo.json"), marker: "GROUNDSWELL_DEMO_TEST=" + filepath.Base(dir)}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
		t.Fatal(err)
	}
	r.cmd = exec.Command(program, append([]string{"--with-parent", "--agents", "12", "--limit", "8m", "--out", r.out}, flags...)...)
	r.cmd.Env = append(os.Environ(), "TMPDIR="+dir, r.marker)
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if t.Failed() {
			t.Log(r.said())
		}
		os.RemoveAll(dir)
	})
	return r
}

// await waits until the demo has printed a text, and fails when it ends first.
func (r *running) await(text string) {
	r.t.Helper()
	devtest.Eventually(r.t, 9*time.Minute, fmt.Sprintf("the demo says %q", text), func() error {
		if strings.Contains(r.said(), text) {
			return nil
		}
		if !r.alive() {
			r.t.Fatalf("the demo ended before it said %q", text)
		}
		return errors.New("not yet")
	})
}

func (r *running) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	return err == nil && !regexp.MustCompile(`\) Z `).Match(stat)
}

// end sends a signal and returns the exit code, -1 when the signal itself ended it.
func (r *running) end(s syscall.Signal) int {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode()
}

// processes are the command lines of all that the demo started: what inherited
// its environment, or was started from below its folder (the devices' firmware
// gets an environment of its own).
func (r *running) processes() []string {
	r.t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		r.t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		line, err := os.ReadFile(e + "/cmdline")
		if err != nil || len(line) == 0 {
			continue // it ended meanwhile
		}
		env, _ := os.ReadFile(e + "/environ") // another user's: not ours
		if bytes.Contains(env, []byte(r.marker)) || bytes.Contains(line, []byte(r.dir)) {
			found = append(found, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// leavesNothing waits until no process and no file of the demo is left.
func (r *running) leavesNothing() {
	r.t.Helper()
	devtest.Eventually(r.t, 0, "nothing of the demo is left", func() error {
		if left := r.processes(); len(left) > 0 {
			return fmt.Errorf("%d processes are left: %s", len(left), strings.Join(left, "\n"))
		}
		files, err := os.ReadDir(r.dir)
		if err != nil || len(files) > 0 {
			return fmt.Errorf("left in its temporary folder: %v (%v)", files, err)
		}
		return nil
	})
}

// checkWritten reads demo.json as a stranger would: the good release is everywhere,
// the bad one never left its canary wave, and whoever tried it is back.
func (r *running) checkWritten() {
	r.t.Helper()
	data, err := os.ReadFile(r.out)
	if err != nil {
		r.t.Fatal(err)
	}
	var got struct {
		OK       bool
		Rollouts []struct {
			Release, State, Reason string
			Outcomes               map[string]int
			Transfer               struct {
				Origin int64 `json:"origin_bytes"`
				Delta  int64 `json:"delta_bytes"`
				Saved  int64 `json:"saved_by_delta_bytes"`
			}
			Delta struct {
				Kind  string
				Bytes int64
				Plain int64 `json:"plain_bytes"`
				Full  int64 `json:"full_bytes"`
				Saved int64 `json:"saved_vs_plain_bytes"`
			}
			Waves []struct {
				OpenedAt *time.Time `json:"opened_at"`
				ClosedAt *time.Time `json:"closed_at"`
			}
		}
		Versions map[string]int
		CheckIn  struct{ P50, P99 float64 } `json:"check_in_ms"`
		Pause    float64                    `json:"pause_to_last_device_ms"`
	}
	if err := json.Unmarshal(data, &got); err != nil || len(got.Rollouts) != 2 {
		r.t.Fatalf("%v, %d rollouts in %s", err, len(got.Rollouts), data)
	}
	good, bad := got.Rollouts[0], got.Rollouts[1]
	if !got.OK || good.Release != "camera 1.1.0" || good.State != "completed" || good.Outcomes["committed"] != 12 || len(good.Outcomes) != 1 {
		r.t.Errorf("ok %v, the good one: %+v", got.OK, good)
	}
	if b := good.Transfer; b.Delta == 0 || b.Origin == 0 || b.Saved < 4*b.Origin {
		r.t.Errorf("the good one's bytes: %+v", b)
	}
	if d := good.Delta; d.Kind != "expanded" || d.Bytes == 0 || d.Bytes > d.Plain/4 || d.Plain > d.Full || d.Saved != 12*d.Plain-good.Transfer.Delta {
		r.t.Errorf("the good one's delta: %+v", d)
	}
	for i, w := range good.Waves {
		if w.OpenedAt == nil || w.ClosedAt == nil || w.ClosedAt.Before(*w.OpenedAt) {
			r.t.Errorf("wave %d of the good one was open from %v to %v", i, w.OpenedAt, w.ClosedAt)
		}
	}
	if bad.Release != "camera 1.2.0" || bad.State != "paused" || !strings.HasPrefix(bad.Reason, "breaker:") || bad.Outcomes["rolled_back"] == 0 || bad.Outcomes["committed"] != 0 {
		r.t.Errorf("the bad one: %+v", bad)
	}
	if len(bad.Waves) != 3 || bad.Waves[0].OpenedAt == nil || bad.Waves[1].OpenedAt != nil || bad.Waves[2].OpenedAt != nil {
		r.t.Errorf("the bad one's waves: %+v", bad.Waves)
	}
	if got.Versions["1.1.0"] != 12 || len(got.Versions) != 1 {
		r.t.Errorf("in the end devices run %v, expected 12 on 1.1.0", got.Versions)
	}
	if got.CheckIn.P50 <= 0 || got.CheckIn.P99 < got.CheckIn.P50 || got.Pause <= 0 {
		r.t.Errorf("not measured: check-in %+v, pause %v ms", got.CheckIn, got.Pause)
	}
}

func TestTheDemoStaysUpForTheThreeCommandsThatItPrints(t *testing.T) {
	r := startDemo(t, "--keep")
	r.await("rollout watch\n")
	_, text, _ := strings.Cut(r.said(), "in another terminal, after\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 5 || !strings.HasPrefix(strings.TrimSpace(lines[0]), "export ") {
		t.Fatalf("not an export, \"these:\" and three commands: %q", lines)
	}
	for i, want := range []string{`.*1\.1\.0`, regexp.QuoteMeta("1.0.0"), "completed"} {
		line := strings.TrimSpace(lines[i+2])
		answer, err := exec.CommandContext(t.Context(), "bash", "-c", strings.TrimSpace(lines[0])+"\n"+line).CombinedOutput()
		if err != nil || !regexp.MustCompile(want).Match(answer) {
			t.Fatalf("%s: %v, expected %s in\n%s", line, err, want, answer)
		}
	}
	r.checkWritten()
	if n := len(r.processes()); n < 12 {
		t.Fatalf("%d processes of the demo found, so that none left at the end says nothing", n)
	}
	if code := r.end(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d after Ctrl-C at its end", code)
	}
	r.leavesNothing()
}

func TestAnInterruptedDemoStopsEverythingAndSaysSo(t *testing.T) {
	r := startDemo(t)
	r.await("rolling out " + goodVersion)
	if code := r.end(syscall.SIGINT); code != 130 {
		t.Errorf("exit code %d, expected 130", code)
	}
	if !strings.Contains(r.said(), "demo: interrupted: everything was stopped") {
		t.Error("it does not say that it was interrupted and has stopped everything")
	}
	r.leavesNothing()
}

func TestAKilledDemoLeavesNothing(t *testing.T) {
	r := startDemo(t)
	r.await("rolling out " + goodVersion)
	if n := len(r.processes()); n < 12 {
		t.Fatalf("%d processes of the demo found, so that none left at the end says nothing", n)
	}
	r.end(syscall.SIGKILL)
	r.leavesNothing()
}

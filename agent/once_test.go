package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/agent/decide"
	"groundswell/agent/deploy"
	"groundswell/agent/journal"
	"groundswell/agent/update"
	"groundswell/topics"
)

// newModule is a device whose component has an installer of its own.
func (f *fleet) newModule(t *testing.T, id, extra string) *device {
	t.Helper()
	d := f.newDevice(t, id, "")
	steps := d.path("steps")
	if err := os.Mkdir(steps, 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range map[string]string{
		"install":  `cp "$MODULE_ARTIFACT" new`,
		"activate": `[ -e old ] || cp runs old; cp new runs`,
		"rollback": `[ ! -e old ] || mv old runs; rm -f new`,
		"commit":   `rm -f old new`,
	} {
		text := "#!/bin/sh\nset -e\ncd " + d.dir + "\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(steps, step), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(d.path("runs"), []byte("1.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile(d.config)))) {
		if !strings.HasPrefix(line, "initial:") && !strings.HasPrefix(line, "firmware:") {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "") + fmt.Sprintf("module: {steps: %s, version: 1.0.0, interval: 20ms}\n", steps) + extra
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// once runs one wake, and returns its exit code and what it says.
func (d *device) once() (code int, says left) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), must[string](d.t)(os.Executable()), "run", "--once", "--config", d.config, "--log-level", "debug")
	cmd.Env = append(os.Environ(), "AGENT_TEST_RUN=1")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	if len(out) > 0 {
		if err := json.Unmarshal(out, &says); err != nil {
			d.t.Fatalf("it says %q: %v", out, err)
		}
	} else if code == 0 || code == exitLeft {
		d.t.Fatalf("code %d, and it says nothing\n%s", code, errOut.String())
	}
	d.t.Logf("code %d: %s", code, out)
	if d.t.Failed() || testing.Verbose() {
		d.t.Log(errOut.String())
	}
	return code, says
}

// reportsUntil waits until the last report is that one: the broker has it when the wake ends, and
// passes it on.
func (d *device) reportsUntil(rollout string, want topics.State) (list []topics.Status) {
	d.t.Helper()
	d.eventually(string(want)+" of "+rollout, func() error {
		if list = d.fleet.statuses(d.id); len(list) == 0 {
			return errors.New("no report")
		}
		if last := list[len(list)-1]; last.State != want || last.Rollout != rollout {
			return fmt.Errorf("the last report: %+v", last)
		}
		return nil
	})
	return list
}

func TestOnceDownloadsWakeByWakeInstallsAndReports(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	artifact := make([]byte, 250_000)
	_, _ = rand.Read(artifact)
	image := f.publishRelease("1.1.0", artifact)
	d := f.newModule(t, "cam-1", "polling: {bytes: 100000}\n")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	if code, says := d.once(); code != 0 || says.Left {
		t.Fatalf("nothing to do: code %d, %+v", code, says)
	}
	e := entry(image)
	f.manifest("lobby", e)
	for wake := range 2 {
		code, says := d.once()
		if code != exitLeft || says.State != update.Downloading || says.Reason != deploy.ReasonBudget || says.Reports != 0 {
			t.Fatalf("wake %d: code %d, %+v", wake, code, says)
		}
	}
	var waits []topics.Status
	d.eventually("the reports of both wakes", func() error { // the broker has them, and passes them on
		waits = nil
		for _, s := range f.statuses("cam-1") {
			if s.Reason == deploy.ReasonBudget {
				waits = append(waits, s)
			}
		}
		if len(waits) < 2 {
			return fmt.Errorf("%+v", waits)
		}
		return nil
	})
	if len(waits) != 2 || waits[0].DownloadedBytes == 0 || waits[1].DownloadedBytes <= waits[0].DownloadedBytes || waits[1].DownloadedBytes > 200_000 {
		t.Errorf("reported while it downloads: %+v", waits)
	}
	// The last wake has enough for the rest, and for what comes after.
	if code, says := d.once(); code != 0 || says.Left {
		t.Fatalf("the last wake: code %d, %+v", code, says)
	}
	if got := must[[]byte](t)(os.ReadFile(d.path("runs"))); string(got) != string(artifact) {
		t.Error("something else runs")
	}
	d.reportsUntil(e.Rollout, topics.StateCommitted)
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.requests["/artifacts/"+image.SHA256]; n != 3 {
		t.Errorf("%d requests for the artifact, want one a wake", n)
	}
}

func TestOnceSaysUntilWhenItWaits(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", []byte("new"))
	d := f.newModule(t, "cam-1", "")
	f.manifest("lobby", entry(image, func(e *topics.Entry) { e.Waves[0].SpreadSeconds = 100 * 24 * 3600 }))
	f.assign("cam-1", []string{"lobby"})
	code, says := d.once()
	if code != exitLeft || says.State != "" || says.Reason != decide.ReasonSpread || says.Until.Before(time.Now()) {
		t.Errorf("code %d, %+v", code, says)
	}
}

func TestOnceBringsATrialToItsEndWhateverTheBudget(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", []byte("new"))
	d := f.newModule(t, "cam-1", "polling: {awake: 1s, bytes: 100000}\n")
	d.replace("settle: 200ms", "settle: 2s")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	began := time.Now()
	for {
		code, says := d.once()
		if code == 0 {
			break
		}
		if time.Since(began) > time.Minute { // a wake may be too short for a slow machine to get on
			t.Fatalf("it does not end: code %d, %+v", code, says)
		}
		if code != exitLeft || says.State != "" && !says.State.Harmless() {
			t.Fatalf("it left a trial alone: code %d, %+v", code, says)
		}
	}
	list := d.reportsUntil(e.Rollout, topics.StateCommitted)
	trying := 0
	for _, s := range list {
		if s.State == topics.StateTrying {
			trying++
		}
	}
	if trying != 1 {
		t.Errorf("%d trials", trying)
	}
}

func TestOnceWithoutABrokerFailsAndKeepsItsReports(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newModule(t, "cam-1", "")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	f.broker.Kill()
	if code, _ := d.once(); code != 1 {
		t.Fatalf("code %d, want 1", code)
	}
	if record := must[journal.Record](t)(journal.Read(d.data())); len(record.Queue) == 0 {
		t.Error("the heartbeat is gone")
	}
}

func TestOnceIsRefusedWhereTheAgentRunsTheComponent(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	err := wakeOnce(t.Context(), cfg, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "firmware") {
		t.Errorf("got %v", err)
	}
	if _, errStat := os.Stat(cfg.DataDir); !errors.Is(errStat, os.ErrNotExist) {
		t.Error("it has begun all the same")
	}
}

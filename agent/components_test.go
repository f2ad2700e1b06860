package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/topics"
)

// two is a device of two processes, of which app is installed first.
func (f *fleet) two(t *testing.T, id, extra string) *device {
	t.Helper()
	const rest = `
    health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
    firmware: {backoff: {min: 10ms, max: 50ms}}
`
	return f.newDeviceOf(t, id, "\ncomponents:\n  - name: app\n    dir: slots\n    "+initial(t)+rest+"  - name: lens\n    "+initial(t)+rest+extra)
}

func of(component string) func(*trust.ReleaseImage) {
	return func(r *trust.ReleaseImage) { r.Release.Component, r.Release.Name = component, component }
}

func requires(component, versions string) func(*trust.ReleaseImage) {
	return func(r *trust.ReleaseImage) {
		r.Release.Requires = append(r.Release.Requires, trust.Requirement{Component: component, Versions: versions})
	}
}

// TestEachComponentGoesItsOwnWay: one is updated, the other one's release is no good;
// reports, versions and logs are of each.
func TestEachComponentGoesItsOwnWay(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, of("app"))
	bad := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "sick").Bytes, of("lens"))
	d := f.two(t, "cam-1", "heartbeat: 100ms\n")
	app, lens := entry(good), entry(bad, func(e *topics.Entry) { e.HealthTimeoutSeconds = 1 })
	f.manifest("lobby", app, lens)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	for _, c := range []struct {
		e       topics.Entry
		state   topics.State
		running string
	}{{app, topics.StateCommitted, "1.1.0"}, {lens, topics.StateRolledBack, "1.0.0"}} {
		if s := d.ends(c.e.Rollout, c.state); s.Component != c.e.Component || s.Running != c.running || s.From != "1.0.0" {
			t.Errorf("report: %+v", s)
		}
	}
	d.runsIn("slots", "1.1.0", good.SHA256)
	d.runsIn("slots-lens", "1.0.0", "")
	d.eventually("what runs of each", d.last(func(h topics.Heartbeat) error {
		if len(h.Versions) != 2 || h.Versions["app"] != "1.1.0" || h.Versions["lens"] != "1.0.0" {
			return fmt.Errorf("%+v", h.Versions)
		}
		return nil
	}))
	f.command("cam-1", topics.Command{ID: "c-1", Action: topics.CommandLogs})
	d.eventually("the logs of each", func() error {
		sources := map[string]int{}
		for _, l := range f.logs("cam-1") {
			sources[l.Source]++
		}
		if sources["agent"] == 0 || sources["app"] == 0 || sources["lens"] < 2 { // one with the failure
			return fmt.Errorf("%v", sources)
		}
		return nil
	})
	d.oneAtATime("app", "lens")
	cmd := exec.CommandContext(t.Context(), must2(os.Executable())(t), "status", "--config", d.config)
	cmd.Env = []string{"AGENT_TEST_RUN=1"}
	var said struct{ Components map[string]held }
	if err := json.Unmarshal(must[[]byte](t)(cmd.Output()), &said); err != nil {
		t.Fatal(err)
	}
	if c := said.Components; len(c) != 2 || c["app"].Active.Version != "1.1.0" || c["lens"].Active.Version != "1.0.0" {
		t.Errorf("status: %+v", c)
	}
}

// oneAtATime checks that no report says that a component is past Staged between the
// first and the last such report of another one's attempt.
func (d *device) oneAtATime(components ...string) {
	d.t.Helper()
	installing := ""
	for _, s := range d.fleet.statuses(d.id) {
		switch {
		case s.State == topics.StateTrying:
			if installing != "" {
				d.t.Errorf("%s is tried while %s is being installed", s.Component, installing)
			}
			installing = s.Component
		case s.State.Terminal() && s.Component == installing:
			installing = ""
		}
	}
}

// TestEachComponentGoesOnAfterAKill: both are in the middle of something.
func TestEachComponentGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	app := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, of("app"))
	lens := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes, of("lens"))
	first, second := entry(app), entry(lens)
	f.manifest("lobby", first, second)
	for _, point := range []string{"app downloading", "lens staged", "app armed", "lens trying", "app committed", "lens armed", "lens confirmed"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			d := f.two(t, strings.ReplaceAll(point, " ", "-"), "")
			f.assign(d.id, []string{"lobby"})
			d.start(point)
			d.awaitKill()
			d.start("")
			for _, e := range []topics.Entry{first, second} {
				if s := d.ends(e.Rollout, topics.StateCommitted); s.Attempt != 1 {
					t.Errorf("report: %+v", s)
				}
			}
			d.runsIn("slots", "1.1.0", app.SHA256)
			d.runsIn("slots-lens", "1.2.0", lens.SHA256)
			d.oneAtATime("app", "lens")
		})
	}
}

// TestAComponentWaitsForTheOneThatItRequires: though it comes first; and fails when
// that one does.
func TestAComponentWaitsForTheOneThatItRequires(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	app := f.publishRelease("2.0.0", agenttest.Firmware(t, "2.0.0", "healthy").Bytes, of("app"), requires("lens", ">=1.2"))
	lens := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes, of("lens"))
	sick := f.publishRelease("1.3.0", agenttest.Firmware(t, "1.3.0", "sick").Bytes, of("lens"))
	for _, c := range []struct {
		name      string
		lens      trust.ReleaseImage
		lensTime  int64 // in which it must be well, in seconds; 0: as configured
		lensState topics.State
		appState  topics.State
		app       string
	}{
		{"good", lens, 0, topics.StateCommitted, topics.StateCommitted, "2.0.0"},
		{"sick", sick, 1, topics.StateRolledBack, topics.StateFailed, "1.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := f.two(t, "cam-"+c.name, "")
			first := entry(app)
			// Its turn comes a moment later.
			second := entry(c.lens, func(e *topics.Entry) {
				e.HealthTimeoutSeconds = c.lensTime
				e.Waves[0].OpensAt = time.Now().Add(2 * time.Second).UTC().Truncate(time.Second)
			})
			f.manifest(c.name, first, second)
			f.assign(d.id, []string{c.name})
			d.start("")
			d.ends(second.Rollout, c.lensState)
			if s := d.ends(first.Rollout, c.appState); s.Running != c.app || c.appState == topics.StateFailed && s.Reason != "requires" {
				t.Errorf("report: %+v", s)
			}
			waited := false
			for _, s := range f.statuses(d.id) {
				waited = waited || s.Component == "app" && s.State == topics.StateDownloading && s.Reason == "requires" && s.Until != nil
			}
			if !waited {
				t.Error("it did not say what it waits for")
			}
			d.oneAtATime("app", "lens")
		})
	}
}

// TestAComponentThatCannotBeOpened: whoever sets a device up is told; in service the
// others run, and are updated.
func TestAComponentThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.two(t, "cam-1", "  - {name: modem, module: {steps: /nowhere}}\n")
	var out, errOut bytes.Buffer
	if code := daemon().Exec(t.Context(), []string{"--config", d.config}, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut}); code != cli.Failed || !strings.Contains(errOut.String(), "component modem") {
		t.Fatalf("code %d, %s", code, errOut.String())
	}
	if _, err := journal.Open(d.data(), time.Now(), slog.New(slog.DiscardHandler)); err != nil { // as one that was managed before
		t.Fatal(err)
	}
	app := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, of("app"))
	e := entry(app)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	d.eventually("what runs", d.last(func(h topics.Heartbeat) error {
		if len(h.Versions) != 2 || h.Versions["app"] != "1.1.0" {
			return fmt.Errorf("%+v", h.Versions)
		}
		return nil
	}))
}

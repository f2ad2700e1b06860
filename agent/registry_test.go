package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// registered is a device of app, lens, and set (mcu and cam) with a real broker and a
// real fleetd.
type registered struct {
	*testing.T
	stack *stack.Stack
	agent *stack.Agent
}

func newRegistered(t *testing.T) *registered {
	t.Helper()
	s := must[*stack.Stack](t)(stack.Start(t.Context(), stack.Options{WithoutInflux: true}))
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	r := &registered{T: t, stack: s}
	for _, call := range []struct {
		path string
		body any
	}{
		{"/v1/devices/import", map[string]any{"devices": []any{map[string]string{"id": "cam-1", "region": "lobby"}}}},
		{"/v1/cohorts", map[string]string{"name": "lobby", "selector": "region=lobby"}},
	} {
		if err := s.API(t.Context(), "POST", call.path, call.body, nil); err != nil {
			t.Fatal(err)
		}
	}
	first := map[string]any{"artifact": agenttest.Firmware(t, "1.0.0", "healthy").Path, "version": "1.0.0"}
	health := map[string]any{"interval": "20ms", "timeout": "5s", "settle": "200ms", "total": "20s"}
	firmware := map[string]any{"backoff": map[string]string{"min": "10ms", "max": "50ms"}}
	process := func(name string) map[string]any {
		return map[string]any{"name": name, "initial": first, "health": health, "firmware": firmware}
	}
	steps := filepath.Join(t.TempDir(), "steps")
	if err := os.Mkdir(steps, 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range map[string]string{
		"install":  `cp "$MODULE_ARTIFACT" "$MODULE_DIR/new"`,
		"activate": `echo "$MODULE_VERSION" >"$MODULE_DIR/runs"`,
		"rollback": `echo "$MODULE_FROM" >"$MODULE_DIR/runs"`,
		"version":  `cat "$MODULE_DIR/runs" 2>/dev/null || echo 1.0.0`,
	} {
		if err := os.WriteFile(filepath.Join(steps, step), []byte("#!/bin/sh\nset -e\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cam := process("cam")
	delete(cam, "health") // is that of the group
	r.agent = must[*stack.Agent](t)(s.StartAgent(t.Context(), stack.AgentOptions{ID: "cam-1", Model: model, Hardware: hardware, Config: func(c stack.Config) {
		delete(c, "health")
		c.Set("200ms", "heartbeat")
		c.Set([]any{
			process("app"), process("lens"), cam,
			map[string]any{"name": "mcu", "module": map[string]any{"steps": steps, "interval": "20ms"}},
			map[string]any{"name": "set", "group": []string{"mcu", "cam"}, "initial": map[string]string{"version": "1.0.0"}, "health": health},
		}, "components")
	}}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the agent's log:\n%s", r.agent.Process.LogTail(40))
		}
	})
	return r
}

// release catalogues an artifact of a component.
func (r *registered) release(component, version, artifact string) {
	r.Helper()
	if err := r.stack.Publish(r.Context(), component, version, artifact, []string{model}, "--component", component); err != nil {
		r.Fatal(err)
	}
}

// pack has fleetctl make the artifact of a version of set.
func (r *registered) pack(version, mode string) string {
	r.Helper()
	controller, out := filepath.Join(r.TempDir(), "mcu.img"), filepath.Join(r.TempDir(), "set.img")
	if err := os.WriteFile(controller, []byte("controller "+version), 0o600); err != nil {
		r.Fatal(err)
	}
	if _, err := r.stack.Fleetctl(r.Context(), "release", "pack", "--member", "mcu@"+version+"="+controller,
		"--member", "cam@"+version+"="+agenttest.Firmware(r, version, mode).Path, "--out", out); err != nil {
		r.Fatal(err)
	}
	return out
}

// rollout starts one, for devices that run the component below 9, of a version that has so long
// to be well.
func (r *registered) rollout(component, version, within string) (id string) {
	r.Helper()
	rollout, err := r.stack.CreateRollout(r.Context(), map[string]any{
		"release": map[string]string{"name": component, "version": version}, "cohorts": []string{"lobby"}, "from": "<9",
		"policy": map[string]any{
			"waves":   []any{map[string]any{"percent": 100, "spread": "0s", "soak": "0s"}},
			"breaker": map[string]any{"percent": 100}, "attempts": 1, "settle": "1s", "health_timeout": within,
		},
	})
	if err != nil {
		r.Fatal(err)
	}
	return rollout.ID
}

// ends waits for the end of a rollout on the device, and wants it to be reported once.
func (r *registered) ends(id, component string, want topics.State) {
	r.Helper()
	devtest.Eventually(r, time.Minute, "the end of "+component, func() error {
		outcomes, err := r.stack.Outcomes(r.Context(), id)
		if err != nil {
			return err
		}
		if len(outcomes) != 1 || !topics.State(outcomes[0].State).Terminal() {
			return fmt.Errorf("%+v", outcomes)
		}
		return nil
	})
	out, err := r.stack.Postgres.Query(r.Context(), "groundswell",
		"SELECT component, state FROM report WHERE rollout = '"+id+"' AND state IN ('committed', 'rolled_back', 'failed')")
	if err != nil || strings.Join(strings.FieldsFunc(out, func(c rune) bool { return strings.ContainsRune("| \n\t", c) }), " ") != component+" "+string(want) {
		r.Errorf("%s: reported %q (%v), want %s\n%s", component, out, err, want, r.agent.Process.LogTail(40))
	}
}

// runs waits until the registry shows those versions, and can be asked for each.
func (r *registered) runs(want map[string]string) {
	r.Helper()
	devtest.Eventually(r, time.Minute, fmt.Sprint("the registry to show ", want), func() error {
		for component, version := range want {
			devices, err := r.stack.Devices(r.Context(), url.Values{"component": {component}, "version": {version}})
			if err != nil {
				return err
			}
			if len(devices) != 1 || !maps.Equal(devices[0].Versions, want) {
				return fmt.Errorf("of %s: %+v", component, devices)
			}
		}
		return nil
	})
}

// TestTheRegistryShowsEachComponent: by real rollouts of all of them, of which some are
// no good.
func TestTheRegistryShowsEachComponent(t *testing.T) {
	r := newRegistered(t)
	r.runs(map[string]string{"app": "1.0.0", "lens": "1.0.0", "set": "1.0.0"})
	r.release("app", "1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Path)
	r.release("lens", "1.2.0", agenttest.Firmware(t, "1.2.0", "sick").Path)
	r.release("set", "2.0.0", r.pack("2.0.0", "healthy"))
	r.release("set", "3.0.0", r.pack("3.0.0", "sick"))
	const well, sick = "30s", "4s" // a slow machine needs more than a sick version is given
	app, lens, set := r.rollout("app", "1.1.0", well), r.rollout("lens", "1.2.0", sick), r.rollout("set", "2.0.0", well)
	r.ends(app, "app", topics.StateCommitted)
	r.ends(lens, "lens", topics.StateRolledBack)
	r.ends(set, "set", topics.StateCommitted)
	r.runs(map[string]string{"app": "1.1.0", "lens": "1.0.0", "set": "2.0.0"})

	r.ends(r.rollout("set", "3.0.0", sick), "set", topics.StateRolledBack)
	r.runs(map[string]string{"app": "1.1.0", "lens": "1.0.0", "set": "2.0.0"})
	var device struct {
		Installs map[string]struct {
			Version, State string
		}
		Targets map[string]struct{ Version string }
	}
	if err := r.stack.API(t.Context(), "GET", "/v1/devices/cam-1", nil, &device); err != nil {
		t.Fatal(err)
	}
	got := must[[]byte](t)(json.Marshal(device))
	for component, want := range map[string][3]string{"app": {"1.1.0", "committed", "1.1.0"}, "lens": {"1.2.0", "rolled_back", "1.2.0"}, "set": {"3.0.0", "rolled_back", "3.0.0"}} {
		if in := device.Installs[component]; in.Version != want[0] || in.State != want[1] || device.Targets[component].Version != want[2] {
			t.Errorf("%s: %s, want %v", component, got, want)
		}
	}
}

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
)

// TestDevicesWalkOverASteppingStone: from 1.0.0 over 2.0.0 to 3.0.0, with both rollouts
// running all the time, and nobody to help.
func TestDevicesWalkOverASteppingStone(t *testing.T) {
	p := start(t, 0, stack.Options{WithoutInflux: true})
	ctx := t.Context()
	firmware := map[string]string{}
	for _, v := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		path, err := devstack.Firmware(ctx, v, true)
		if err != nil {
			t.Fatal(err)
		}
		firmware[v] = path
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for v, extra := range map[string][]string{"2.0.0": nil, "3.0.0": {"--requires", "system >=2.0"}} {
		must(p.Publish(ctx, release, v, firmware[v], []string{model}, extra...))
	}
	_, err := p.Fleetctl(ctx, "cohort", "create", "all", "--selector", "model="+model)
	must(err)
	for i := range 2 {
		_, err := p.StartAgent(ctx, stack.AgentOptions{ID: fmt.Sprintf("cam-%d", i), Model: model, Hardware: "rev-b", Firmware: firmware["1.0.0"], Version: "1.0.0"})
		must(err)
	}
	devtest.Eventually(t, time.Minute, "both devices to be known", func() error {
		devices, err := p.Devices(ctx, nil)
		if err != nil || len(devices) != 2 || devices[0].Versions["system"] == "" || devices[1].Versions["system"] == "" {
			return fmt.Errorf("%+v, %v", devices, err)
		}
		return nil
	})
	roll := func(version string) *stack.Rollout {
		t.Helper()
		r, err := p.CreateRollout(ctx, map[string]any{
			"release": map[string]string{"name": release, "version": version}, "cohorts": []string{"all"},
			"policy": map[string]any{"settle": "1s", "waves": []map[string]any{{"percent": 50, "spread": "0s", "soak": "1s"}, {"percent": 100, "spread": "0s", "soak": "0s"}}},
		})
		must(err)
		return r
	}
	second := roll("2.0.0")
	third := roll("3.0.0")
	var view struct {
		Warnings []string `json:"warnings"`
	}
	must(p.API(ctx, "GET", "/v1/rollouts/"+third.ID, nil, &view))
	if len(view.Warnings) != 1 || !strings.Contains(view.Warnings[0], "only after camera 2.0.0, which rollout "+second.ID+" brings them") {
		t.Errorf("warned of %q", view.Warnings)
	}
	out, err := p.Fleetctl(ctx, "rollout", "show", third.ID)
	if must(err); !strings.Contains(string(out), "Waiting for a stepping stone") || !strings.Contains(string(out), second.ID) {
		t.Errorf("fleetctl shows\n%s", out)
	}

	wait, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	for _, id := range []string{second.ID, third.ID} {
		r, err := p.AwaitRollout(wait, id, 100*time.Millisecond, func(r *stack.Rollout) bool { return r.State == "completed" || r.State == "paused" })
		if err != nil || r.State != "completed" {
			t.Fatalf("%+v, %v", r, err)
		}
		outcomes, err := p.Outcomes(ctx, id)
		must(err)
		for _, o := range outcomes {
			if o.State != "committed" || o.Attempt != 1 {
				t.Errorf("%s: %+v", id, o)
			}
		}
		if len(outcomes) != 2 {
			t.Errorf("%s: %d devices took part", id, len(outcomes))
		}
	}
	devtest.Eventually(t, time.Minute, "both devices to run 3.0.0", func() error {
		devices, err := p.Devices(ctx, nil)
		for _, d := range devices {
			if d.Versions["system"] != "3.0.0" {
				return fmt.Errorf("%s runs %s, %v", d.ID, d.Versions["system"], err)
			}
		}
		return err
	})
	view.Warnings = nil
	if must(p.API(ctx, "GET", "/v1/rollouts/"+third.ID, nil, &view)); len(view.Warnings) != 0 {
		t.Errorf("warned of %q in the end", view.Warnings)
	}
}

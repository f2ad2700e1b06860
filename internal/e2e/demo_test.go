package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"groundswell/internal/devstack"
)

// TestDemoWithFewerDevices runs the demo itself, with 12 devices, and checks what
// it wrote: the good release is everywhere, the bad one never left its canary
// wave, and the devices that tried it are back by themselves.
func TestDemoWithFewerDevices(t *testing.T) {
	root, err := devstack.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	demo, result := filepath.Join(dir, "demo"), filepath.Join(dir, "demo.json")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "./internal/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), demo, "--agents", "12", "--out", result, "--limit", "8m")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, tail(out, 8000))
	}
	data, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rollouts []struct {
			Release, State, Reason string
			Outcomes               map[string]int
		}
		Versions map[string]int
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", data)
	if len(got.Rollouts) != 2 {
		t.Fatalf("%d rollouts, want 2", len(got.Rollouts))
	}
	good, bad := got.Rollouts[0], got.Rollouts[1]
	if good.State != "completed" || good.Outcomes["committed"] != 12 {
		t.Errorf("the good one: %+v", good)
	}
	if bad.State != "paused" || bad.Reason == "" || bad.Outcomes["rolled_back"] == 0 || bad.Outcomes["committed"] != 0 {
		t.Errorf("the bad one: %+v", bad)
	}
	if got.Versions["1.1.0"] != 12 || len(got.Versions) != 1 {
		t.Errorf("in the end devices run %v, want 12 on 1.1.0", got.Versions)
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

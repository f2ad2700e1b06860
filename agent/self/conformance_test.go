package self

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
)

// agent is a device with an agent's slots, without the agent's process: it boots by what
// the launcher asks.
type agent struct {
	*testing.T
	path  string
	slots *Slots
	leave func() // the agent that runs makes way
}

func (d *agent) Boot() deploy.Slots {
	d.Helper()
	dir, err := slot.OpenDir(d.path)
	if err != nil {
		d.Fatal(err)
	}
	name, _, trial, err := dir.Boot()
	if err != nil {
		d.Fatal(err)
	}
	d.slots, err = Open(Config{
		Dir: d.path, Tries: slottest.Tries,
		Launched: Launched{Dir: d.path, Launcher: "/agent", Slot: name, Boot: slot.NewBootID(), Trial: trial},
		Restart:  func() { d.leave() },
	})
	if err != nil {
		d.Fatal(err)
	}
	d.leave = func() { d.Error("nobody asked for that") }
	return d.slots
}

func (d *agent) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	left := false
	d.leave = func() {
		left = true
		cancel()
	}
	err := do(ctx)
	if left {
		return d.Boot(), nil
	}
	return d.slots, err
}

func (d *agent) Bytes(version string) []byte {
	return fmt.Append(nil, "agent ", version, string(make([]byte, 2000)))
}

func (d *agent) Damage(name string) {
	path := filepath.Join(d.path, name, "artifact")
	data, err := os.ReadFile(path)
	if err != nil {
		d.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o700); err != nil {
		d.Fatal(err)
	}
}

func newAgent(t *testing.T) *agent {
	d := &agent{T: t, path: filepath.Join(t.TempDir(), "agent")}
	dir, err := slot.OpenDir(d.path)
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(t.TempDir(), "agent-1.0.0")
	if err := os.WriteFile(first, d.Bytes("1.0.0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dir.Provision(first, "1.0.0"); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheAgentsOwnSlotsAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return newAgent(t) })
}

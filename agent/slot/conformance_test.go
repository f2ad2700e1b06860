package slot_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
)

// supervised is a device whose slots are directories.
type supervised struct {
	*testing.T
	path  string
	slots *slot.Supervised
	off   func()
}

func (d *supervised) Boot() deploy.Slots {
	d.Helper()
	d.off()
	dir, err := slot.OpenDir(d.path)
	if err != nil {
		d.Fatal(err)
	}
	d.slots = slot.New(dir, slot.Config{Addr: "127.0.0.1:0", Tries: slottest.Tries, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.slots.Run(ctx) }()
	d.off = func() {
		cancel()
		<-done
		d.off = func() {}
	}
	if err := d.slots.Ready(d.Context()); err != nil {
		d.Fatal(err)
	}
	return d.slots
}

func (d *supervised) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	return d.slots, do(d.Context())
}

func (d *supervised) Bytes(version string) []byte {
	return agenttest.Firmware(d, version, "healthy").Bytes
}

func (d *supervised) Damage(name string) {
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

func TestDirectoriesAreSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device {
		d := &supervised{T: t, path: filepath.Join(t.TempDir(), "slots"), off: func() {}}
		t.Cleanup(func() { d.off() })
		dir, err := slot.OpenDir(d.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Provision(agenttest.Firmware(t, "1.0.0", "healthy").Path, "1.0.0"); err != nil {
			t.Fatal(err)
		}
		return d
	})
}

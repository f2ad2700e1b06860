package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/agent/peers/peerstest"
	"groundswell/topics"
)

// TestDevicesOfASiteCopyFromEachOther: one has the release installed and runs it when the
// other begins; that one gets it all from the first, and reports so. One that runs on its
// battery fetches it itself.
func TestDevicesOfASiteCopyFromEachOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	artifact := agenttest.Firmware(t, "1.1.0", "healthy").Bytes
	_, indexed := f.indexed(artifact)
	image := f.publishRelease("1.1.0", artifact, indexed)
	addrs := peerstest.Addrs(t, 3)
	e := entry(image)
	f.manifest("lobby", e)
	var devices []*device
	for i, addr := range addrs {
		id := fmt.Sprintf("cam-%d", i)
		// What it runs has nothing in common with the release.
		other := filepath.Join(t.TempDir(), "firmware")
		if err := os.WriteFile(other, []byte(fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", agenttest.Firmware(t, "1.0.0", "healthy").Path)), 0o700); err != nil {
			t.Fatal(err)
		}
		d := f.newDeviceOf(t, id, fmt.Sprintf(`
initial: {artifact: %s, version: 1.0.0}
health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
peers: {listen: %q, static: [%q, %q, %q]}
`, other, addr, addrs[0], addrs[1], addrs[2]))
		d.root = t.TempDir() // it has no battery
		devices = append(devices, d)
	}
	onBattery(t, devices[2].root)
	for i, d := range devices {
		d.start("")
		f.assign(d.id, []string{"lobby"})
		got := d.ends(e.Rollout, topics.StateCommitted).Transfer
		switch {
		case got == nil:
			t.Errorf("%s says nothing", d.id)
		case i == 1 && (got.Peer != image.Length || got.Full+got.Packed > 0):
			t.Errorf("%s does not copy: %+v", d.id, got)
		case i != 1 && (got.Peer != 0 || got.Full != image.Length):
			t.Errorf("%s does not fetch: %+v", d.id, got)
		}
		d.runs("1.1.0", image.SHA256)
	}
}

// onBattery has a machine run on its battery.
func onBattery(t *testing.T, root string) {
	t.Helper()
	dir := filepath.Join(root, "sys/class/power_supply/BAT0")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"type": "Battery", "capacity": "80", "status": "Discharging"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

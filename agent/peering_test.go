package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/allowance"
	"groundswell/agent/peers/peerstest"
	"groundswell/topics"
)

// TestDevicesOfASiteCopyFromEachOther: one has the release installed and runs it when the
// others begin; these get it all from the first, and report so, also one that connects on a
// schedule with a budget and is plugged in. One that runs on its battery fetches it itself,
// as does one that sleeps and of which nothing is known.
func TestDevicesOfASiteCopyFromEachOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	artifact := agenttest.Firmware(t, "1.1.0", "healthy").Bytes
	_, indexed := f.indexed(artifact)
	image := f.publishRelease("1.1.0", artifact, indexed)
	addrs := peerstest.Addrs(t, 5)
	const polls = "mode: polling\npolling: {interval: 1s, jitter: 1ms"
	modes := []string{3: polls + ", bytes: 100000}", 4: polls + "}"}
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
%s
`, other, addr, addrs[0], addrs[1], addrs[2], modes[i]))
		d.root = t.TempDir() // it has no battery
		devices = append(devices, d)
	}
	onBattery(t, devices[2].root)
	for _, name := range []string{"capacity", "status"} { // of which nothing is known
		if err := os.Remove(filepath.Join(devices[2].root, "sys/class/power_supply/BAT0", name)); err != nil {
			t.Fatal(err)
		}
	}
	pluggedIn(t, devices[3].root)
	copies := []bool{1: true, 3: true, 4: false}
	for i, d := range devices {
		d.start("")
		f.assign(d.id, []string{"lobby"})
		got := d.ends(e.Rollout, topics.StateCommitted).Transfer
		switch {
		case got == nil:
			t.Errorf("%s says nothing", d.id)
		case copies[i] && (got.Peer != image.Length || got.Full+got.Packed > 0):
			t.Errorf("%s does not copy: %+v", d.id, got)
		case !copies[i] && (got.Peer != 0 || got.Full != image.Length):
			t.Errorf("%s does not fetch: %+v", d.id, got)
		}
		d.runs("1.1.0", image.SHA256)
	}
}

// TestADeviceThatMayNotDownloadCopiesFromItsSite: its window is shut, and another device runs
// the release. It asks the origin for nothing of it, not even the list of releases, but once
// for a newer root, and installs it before the window opens; the one that waits beside it is on its battery.
func TestADeviceThatMayNotDownloadCopiesFromItsSite(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	artifact := agenttest.Firmware(t, "1.1.0", "healthy").Bytes
	_, indexed := f.indexed(artifact)
	image := f.publishRelease("1.1.0", artifact, indexed)
	addrs := peerstest.Addrs(t, 3)
	at := func(in time.Duration) string { return time.Now().UTC().Add(in).Format("15:04") }
	shut := fmt.Sprintf("download: {windows: [{start: %q, end: %q}]}", at(6*time.Hour), at(7*time.Hour))
	e := entry(image)
	f.manifest("lobby", e)
	var devices []*device
	for i, addr := range addrs {
		// What it runs has nothing in common with the release.
		other := filepath.Join(t.TempDir(), "firmware")
		if err := os.WriteFile(other, []byte(fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", agenttest.Firmware(t, "1.0.0", "healthy").Path)), 0o700); err != nil {
			t.Fatal(err)
		}
		download := ""
		if i > 0 {
			download = shut
		}
		d := f.newDeviceOf(t, fmt.Sprintf("cam-%d", i), fmt.Sprintf(`
initial: {artifact: %s, version: 1.0.0}
health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
peers: {listen: %q, static: [%q, %q, %q]}
%s
`, other, addr, addrs[0], addrs[1], addrs[2], download))
		d.root = t.TempDir() // it has no battery
		devices = append(devices, d)
	}
	onBattery(t, devices[2].root)
	devices[0].start("")
	f.assign(devices[0].id, []string{"lobby"})
	devices[0].ends(e.Rollout, topics.StateCommitted)
	f.mu.Lock()
	clear(f.requests)
	f.mu.Unlock()
	for _, d := range devices[1:] {
		d.start("")
		f.assign(d.id, []string{"lobby"})
	}
	want := image.Length + image.Release.Index.Length
	if got := devices[1].ends(e.Rollout, topics.StateCommitted).Transfer; got == nil || got.Peer != want || got.Received() != want {
		t.Errorf("of %d bytes: %+v", want, got)
	}
	devices[1].runs("1.1.0", image.SHA256)
	devices[2].eventually("the report of the wait", func() error {
		for _, s := range f.statuses(devices[2].id) {
			if s.State == topics.StateDownloading && s.Reason == allowance.ReasonWindow && s.DownloadedBytes == 0 {
				return nil
			}
		}
		return errors.New("none")
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if next := "/repository/image/2.root.json"; len(f.requests) != 1 || f.requests[next] != 1 {
		t.Errorf("the origin was asked for %v", f.requests)
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

// pluggedIn has a machine run on mains power, and have no battery.
func pluggedIn(t *testing.T, root string) {
	t.Helper()
	dir := filepath.Join(root, "sys/class/power_supply/USB")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"type": "USB", "online": "1"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

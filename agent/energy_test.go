package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/agent/wake"
	"groundswell/internal/delta"
	"groundswell/internal/expand/find"
	"groundswell/topics"
)

func TestWhatADeviceRunsOn(t *testing.T) {
	const battery, full, charging, usb, unplugged = "BAT0/type=Battery BAT0/capacity=50 BAT0/status=Discharging",
		"BAT0/type=Battery BAT0/capacity=99 BAT0/status=Full", "BAT0/type=Battery BAT0/capacity=50 BAT0/status=Charging", "USB/type=USB USB/online=1", "USB/type=USB USB/online=0"
	const nothing = "BAT0/type=Battery"
	for _, c := range []struct {
		name, supplies string
		sleeps, want   bool
	}{
		{"nothing is known", "", false, false},
		{"a device that sleeps, nothing is known", "", true, true},
		{"a device that sleeps, plugged in", usb, true, false},
		{"a device that sleeps, not plugged in", unplugged, true, true},
		{"a battery", battery, false, true},
		{"a battery that charges", charging, true, false},
		{"a battery that is full", full, false, false},
		{"a battery, plugged in", battery + " " + usb, false, false},
		{"a battery that says nothing", nothing, false, true},
		{"a battery that says nothing, plugged in", nothing + " " + usb, false, false},
		{"a battery that does not say what it does", "BAT0/type=Battery BAT0/capacity=50 BAT0/status=Unknown", false, true},
		{"a battery that says only that it charges", nothing + " BAT0/status=Charging", false, false},
		{"a place for a battery", nothing + " BAT0/present=0", false, false},
		{"a place for a battery, a device that sleeps", nothing + " BAT0/present=0", true, true},
		{"a battery that says nonsense", "BAT0/type=Battery BAT0/capacity=400", false, true},
		{"a mouse", "hid/type=Battery hid/scope=Device hid/capacity=9 hid/status=Discharging", false, false},
		{"a battery, not plugged in", battery + " " + unplugged, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := machineRoot
			machineRoot = t.TempDir()
			t.Cleanup(func() { machineRoot = before })
			for _, s := range strings.Fields(c.supplies) {
				name, value, _ := strings.Cut(s, "=")
				path := filepath.Join(machineRoot, "sys/class/power_supply", name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			awake := wake.New(wake.Limits{})
			if c.sleeps {
				awake.Begin()
			}
			if got := usesBattery(awake); got != c.want {
				t.Errorf("it uses its battery: %v, expected %v", got, c.want)
			}
		})
	}
}

// TestADeviceTakesTheDeltaThatFitsWhatItRunsOn: one that looks through compression and saves
// little, on mains only, unless its configuration says that processor time costs nothing.
func TestADeviceTakesTheDeltaThatFitsWhatItRunsOn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	old, artifact := little(t, "1.0.0"), little(t, "1.1.0")
	index, indexed := f.indexed(artifact)
	image := f.publishRelease("1.1.0", artifact, indexed)
	var through, plain bytes.Buffer
	if err := find.Encode(t.Context(), &through, old, artifact, find.Options{Ends: index.Segments(), Coder: delta.Zstd}); err != nil {
		t.Fatal(err)
	}
	if err := delta.Encode(t.Context(), &plain, old, artifact, delta.Options{Ends: index.Segments(), Coder: delta.Zstd}); err != nil {
		t.Fatal(err)
	}
	if through.Len() > plain.Len()*19/20 || through.Len() < plain.Len()/2 {
		t.Fatalf("%d bytes with looking through, %d without", through.Len(), plain.Len())
	}
	from := fmt.Sprintf("%x", sha256.Sum256(old))
	list := topics.DeltaIndex{Schema: topics.Schema, Artifact: image.SHA256,
		Deltas: []topics.Delta{{From: from, Document: f.document(plain.Bytes())}}, Expanded: []topics.Delta{{From: from, Document: f.document(through.Bytes())}}}
	encoded := must2(topics.Encode(list))(t)
	pin := f.document(encoded)
	e := entry(image, func(e *topics.Entry) { e.Deltas = &pin })
	f.manifest("lobby", e)
	initial := filepath.Join(t.TempDir(), "firmware")
	if err := os.WriteFile(initial, old, 0o700); err != nil {
		t.Fatal(err)
	}
	const polls = "mode: polling\npolling: {interval: 1s, jitter: 1ms}\n"
	for i, c := range []struct {
		name, config string
		battery      bool // that the kernel knows of
		looks        bool
	}{
		{"mains", "", false, true},
		{"battery", "", true, false},
		{"a device that sleeps", polls, false, false},
		{"battery, processor time costs nothing", "energy: {processor_mw: 0}\n", true, true},
	} {
		d := f.newDeviceOf(t, fmt.Sprintf("cam-%d", i), fmt.Sprintf("initial: {artifact: %s, version: 1.0.0}\nhealth: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}\n%s", initial, c.config))
		if d.root = t.TempDir(); c.battery {
			onBattery(t, d.root)
		}
		before := f.asked(list)
		f.assign(d.id, []string{"lobby"})
		d.start("")
		got := d.ends(e.Rollout, topics.StateCommitted).Transfer
		now := f.asked(list)
		if byThrough, byPlain := now.through > before.through+1, now.plain > before.plain; byThrough != c.looks || byPlain == c.looks { // one request is for its head
			t.Errorf("%s: it asks %d times for the one that looks through compression, and %d times for the plain one: %+v", c.name, now.through-before.through, now.plain-before.plain, got)
		}
		d.runs("1.1.0", image.SHA256)
	}
}

// asked is how often deltas were asked for.
func (f *fleet) asked(x topics.DeltaIndex) (n struct{ through, plain int }) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.through, n.plain = f.requests["/artifacts/"+x.Expanded[0].SHA256], f.requests["/artifacts/"+x.Deltas[0].SHA256]
	return n
}

// little is a firmware of a version: it runs, and has a compressed part of which nine tenths
// are of this version only.
func little(t *testing.T, version string) []byte {
	t.Helper()
	content := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)                                                 // never fails
	_, _ = rand.NewChaCha8([32]byte([]byte(version + strings.Repeat(" ", 27)))).Read(content[1<<17:]) // never fails
	for i := range content {
		content[i] &= 0x1f
	}
	content[7] = version[2]
	cmd := exec.CommandContext(t.Context(), "gzip", "-nc6")
	cmd.Stdin = bytes.NewReader(content)
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", agenttest.Firmware(t, version, "healthy").Path)
	return append([]byte(script), packed...)
}

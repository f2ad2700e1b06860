package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/certs/trust"
	"groundswell/topics"
)

func TestRevertGoesBackAndUpdateDoesNot(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	old := f.publishRelease("1.0.5", agenttest.Firmware(t, "1.0.5", "healthy").Bytes)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	back := entry(old, func(e *topics.Entry) { e.Kind, e.From, e.Priority = topics.EntryRevert, "=1.1.0", 1 })
	f.manifest("lobby", back)
	if s := d.ends(back.Rollout, topics.StateCommitted); s.From != "1.1.0" || s.Running != "1.0.5" {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.0.5", old.SHA256)
}

func TestSecurityFloorHoldsEvenForARevert(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	old := f.publishRelease("0.9.0", agenttest.Firmware(t, "0.9.0", "healthy").Bytes)
	f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, func(i *trust.ReleaseImage) { i.Release.SecurityFloor = "1.0.0" })
	d := f.newDevice(t, "cam-1", "")
	back := entry(old, func(e *topics.Entry) { e.Kind = topics.EntryRevert })
	f.manifest("lobby", back)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	if s := d.ends(back.Rollout, topics.StateFailed); s.Reason != "security-floor" {
		t.Errorf("report: %+v", s)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.requests["/artifacts/"+old.SHA256]; n != 0 {
		t.Errorf("it was downloaded %d times", n)
	}
}

// Nobody has told the device but the release itself: it takes the older rollout first, and
// then the newer one, and nothing of it is a failure.
func TestDeviceWalksOverASteppingStone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stone := f.publishRelease("2.0.0", agenttest.Firmware(t, "2.0.0", "healthy").Bytes)
	image := f.publishRelease("3.0.0", agenttest.Firmware(t, "3.0.0", "healthy").Bytes, func(i *trust.ReleaseImage) {
		i.Release.Requires = []trust.Requirement{{Component: "system", Versions: ">=2.0"}}
	})
	d := f.newDevice(t, "cam-1", "")
	first, second := entry(stone), entry(image)
	f.manifest("lobby", second, first)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.ends(second.Rollout, topics.StateCommitted)
	d.runs("3.0.0", image.SHA256)
	var got []string
	for _, s := range f.statuses("cam-1") {
		if s.State.Terminal() || s.State == topics.StateWaiting {
			got = append(got, fmt.Sprintf("%s %s %s %d", s.Target, s.State, s.Reason, s.Attempt))
		}
	}
	want := "[3.0.0 waiting stepping-stone 1 2.0.0 committed healthy 1 3.0.0 committed healthy 1]"
	if fmt.Sprint(got) != want {
		t.Errorf("reported %v, want %s", got, want)
	}
	if n := len(must[journal.Record](t)(journal.Read(d.data())).Failures); n != 0 {
		t.Errorf("%d failures", n)
	}
}

// Whoever holds the online keys shows a device that has lost what it trusted a list of
// before the floor, and a manifest that goes with it: all of it is signed.
func TestSecurityFloorOutlivesALostFileAndAnOlderManifest(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	old := f.publishRelease("1.0.5", agenttest.Firmware(t, "1.0.5", "healthy").Bytes)
	before := f.pin
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, func(i *trust.ReleaseImage) { i.Release.SecurityFloor = "1.1.0" })
	d := f.newDevice(t, "cam-1", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	if err := d.process.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"trust", "trust.old"} {
		if err := os.Remove(filepath.Join(d.data(), name)); err != nil {
			t.Fatal(err)
		}
	}
	back := entry(old, func(e *topics.Entry) { e.Kind = topics.EntryRevert })
	f.mu.Lock()
	f.pin = before
	f.mu.Unlock()
	f.manifest("lobby", back)
	d.start("")
	if s := d.ends(back.Rollout, topics.StateFailed); s.Reason != "security-floor" {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.1.0", image.SHA256)
}

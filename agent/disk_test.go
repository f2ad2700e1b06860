package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/topics"
)

// The disk takes no writes any more, in the middle of a run: the component runs
// on, the device says what is wrong and goes on speaking, and does nothing that
// it could not remember.
func TestDeviceLivesOnWithAFailingDisk(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "heartbeat: 50ms\n")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()
	newest := func() (h topics.Heartbeat) {
		for _, got := range f.heartbeats("cam-1") {
			if got.Sequence > h.Sequence {
				h = got
			}
		}
		return h
	}
	d.eventually("a heartbeat", func() error {
		if newest().CheckInMillis == 0 {
			return errors.New("none after the check-in")
		}
		return nil
	})
	mend := d.breakDisk()
	d.eventually("word of the disk", func() error {
		for _, l := range f.logs("cam-1") {
			if strings.Contains(l.Text, "journal cannot be written") {
				return nil
			}
		}
		return fmt.Errorf("%+v", f.logs("cam-1"))
	})
	e := entry(image)
	f.manifest("lobby", e)
	d.eventually("the manifest", func() error { return d.logged("message refused", "keep trust") })
	before := newest()
	d.eventually("heartbeats without a disk", func() error {
		if h := newest(); h.Sequence < before.Sequence+5 {
			return fmt.Errorf("at %d, from %d", h.Sequence, before.Sequence)
		}
		return nil
	})
	if h := newest(); h.BootID != before.BootID || h.Versions["system"] != "1.0.0" || h.Epoch != before.Epoch {
		t.Errorf("before %+v, now %+v", before, h)
	}
	select {
	case <-d.process.Done():
		t.Fatalf("it ended\n%s", d.process.LogTail(20))
	default:
	}
	if d.logged("device is not managed") == nil || d.logged("connection to broker lost") == nil {
		t.Errorf("it was not itself\n%s", d.process.LogTail(40))
	}
	if got := f.statuses("cam-1"); len(got) != 0 {
		t.Errorf("it acted: %+v", got)
	}

	// Killed, and started again on the same disk: its component runs and it speaks.
	d.process.Kill()
	d.forgetLog()
	d.start("")
	d.eventually("a sign of life", func() error {
		if h := newest(); h.BootID == before.BootID || h.Versions["system"] != "1.0.0" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	mend()
	f.manifest("lobby", e)
	s := d.ends(e.Rollout, topics.StateCommitted)
	if r := must[journal.Record](t)(journal.Read(d.data())); s.Epoch != before.Epoch || r.Epoch != before.Epoch {
		t.Errorf("report %+v, journal at %d", s, r.Sequence)
	}
	d.runs("1.1.0", image.SHA256)
}

// breakDisk makes every write of the journal and of what is trusted fail, as on
// a disk that is full or read-only, until mend.
func (d *device) breakDisk() (mend func()) {
	d.t.Helper()
	var paths []string
	for _, name := range []string{"journal.new", "trust.new", "epoch.new"} {
		paths = append(paths, d.path("data/"+name))
	}
	for _, path := range paths {
		// The name may be taken for a moment, by a write that is under way.
		d.eventually("an obstacle at "+path, func() error {
			_ = os.Remove(path)
			return os.MkdirAll(path+"/x", 0o700)
		})
	}
	return func() {
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				d.t.Error(err)
			}
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// setClock puts the device's clock ahead of the right time; 0 puts it right.
func (d *device) setClock(ahead time.Duration) {
	d.t.Helper()
	err := os.Remove(d.path("clock"))
	if ahead != 0 {
		// Renamed, because the agent reads it all the time.
		err = errors.Join(os.WriteFile(d.path("clock.new"), []byte(ahead.String()), 0o600), os.Rename(d.path("clock.new"), d.path("clock")))
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
}

const century = 74 * 366 * 24 * time.Hour

// A clock that comes up in the year 2100 is set right some time later: nothing
// of that century stays. Certificates and metadata are judged by the right time,
// and no report is numbered so that all after it would be ignored.
func TestClockThatWasInAnotherCenturyLeavesNoTrace(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(first)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.setClock(century)
	d.start("")
	d.eventually("the component", func() error { return d.logged("component launched") })
	d.eventually("a broker that seems to have expired", func() error { return d.logged("cannot connect to broker", "expired") })
	sane := func(epoch int64) error {
		if latest := time.Now().Add(time.Hour).Unix(); epoch < 1 || epoch > latest {
			return fmt.Errorf("epoch %d, and it is %d", epoch, latest)
		}
		return nil
	}
	d.eventually("a journal", func() error {
		_, err := journal.Read(d.data())
		return err
	})
	if err := sane(must[journal.Record](t)(journal.Read(d.data())).Epoch); err != nil {
		t.Error(err)
	}

	d.setClock(0)
	s := d.ends(e.Rollout, topics.StateCommitted)
	if err := errors.Join(sane(s.Epoch), sane(s.At.Unix())); err != nil {
		t.Error(err)
	}

	// In the middle of its life: it waits, and goes on.
	d.setClock(century)
	d.process.Kill()
	d.forgetLog()
	d.start("")
	d.eventually("the same", func() error { return d.logged("cannot connect to broker", "expired") })
	second := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes)
	e2 := entry(second)
	f.manifest("lobby", e2)
	d.setClock(0)
	s2 := d.ends(e2.Rollout, topics.StateCommitted)
	if s2.Epoch != s.Epoch || s2.Sequence <= s.Sequence {
		t.Errorf("numbered %d/%d after %d/%d", s2.Epoch, s2.Sequence, s.Epoch, s.Sequence)
	}

	// All is lost, and begun anew with the clock there again.
	d.process.Kill()
	for _, name := range []string{"journal", "journal.old", "epoch", "epoch.old", "trust", "trust.old"} {
		if err := os.Remove(d.path("data/" + name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	d.setClock(century)
	d.forgetLog()
	d.start("")
	d.eventually("the same once more", func() error { return d.logged("cannot connect to broker", "expired") })
	// Epochs are numbered by the second, and all of this may take less than one.
	d.eventually("a second later than the last epoch", devtest.True(func() bool { return time.Now().Unix() > s2.Epoch }))
	d.setClock(0)
	third := f.publishRelease("1.3.0", agenttest.Firmware(t, "1.3.0", "healthy").Bytes)
	e3 := entry(third)
	f.manifest("lobby", e3)
	if s3 := d.ends(e3.Rollout, topics.StateCommitted); s3.Epoch <= s2.Epoch || sane(s3.Epoch) != nil {
		t.Errorf("epoch %d after %d", s3.Epoch, s2.Epoch)
	}
}

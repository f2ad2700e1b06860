package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

func TestSecondAgentIsKeptAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	d.start("")
	unlock, err := lock(d.data())
	if err == nil {
		unlock()
		t.Fatal("two agents on one directory")
	}
	if err := d.process.Stop(30 * time.Second); err != nil {
		t.Errorf("told to stop: %v", err)
	}
	unlock, err = lock(d.data())
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	unlock()
}

// A device whose slots are empty says so, takes the first release that it is
// offered, and survives one that fails.
func TestDeviceWithoutAnyVersionIsRepaired(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	bad := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "crash").Bytes)
	good := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	config := string(must[[]byte](t)(os.ReadFile(d.config)))
	_, line, _ := strings.Cut(config, "initial:")
	line, _, _ = strings.Cut(line, "\n")
	d.replace("initial:"+line, "")
	e := entry(bad, func(e *topics.Entry) { e.HealthTimeoutSeconds = 1 })
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	if s := d.ends(e.Rollout, topics.StateRolledBack); s.From != "0.0.0" || s.Running != "0.0.0" {
		t.Errorf("report: %+v", s)
	}
	next := entry(good)
	f.manifest("lobby", next)
	if s := d.ends(next.Rollout, topics.StateCommitted); s.From != "0.0.0" || s.Running != "1.1.0" {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.1.0", good.SHA256)
}

// The journal is lost with all its copies, and the device's clock is behind: a
// new epoch is no earlier than what was verified, or fleetd would ignore it.
func TestNewEpochIsNoEarlierThanWhatWasVerified(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	f.assign("cam-1", []string{"lobby"})
	version := f.next()
	issued := time.Now().Add(20 * time.Minute) // the device is that far behind
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: "lobby",
		Version: version, Issued: issued, Entries: []topics.Entry{},
	}
	f.publish(topics.CohortManifest("lobby"), must[[]byte](t)(trust.SignManifest(m, time.Now().Add(time.Hour), f.director)), version)
	d.start("")
	d.checkedIn()
	d.process.Kill()
	if err := f.broker.Signal(stopSignal); err != nil { // nothing new is verified
		t.Fatal(err)
	}
	defer func() { _ = f.broker.Signal(goSignal) }()
	for _, name := range []string{"journal", "journal.old", "epoch", "epoch.old"} {
		if err := os.Remove(d.path("data/" + name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	d.start("")
	d.eventually("a journal", func() error {
		r, err := journal.Read(d.data())
		if err == nil && r.Epoch < issued.Unix() {
			t.Fatalf("epoch %d, though %d was verified", r.Epoch, issued.Unix())
		}
		return err
	})
}

// The certificate is damaged or does not fit its key: the device cannot be managed, but what it is for
// goes on, and once it is mended nobody has to start it again.
func TestComponentRunsWhateverIsWrongWithTheAgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d := f.newDevice(t, "cam-1", "")
	good := must[[]byte](t)(os.ReadFile(d.path("device.crt")))
	write := func(data []byte) {
		if err := os.WriteFile(d.path("device.crt"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good[:len(good)/2])
	d.process = devtest.Start(t, devstack.Spec{
		Name: "agent-" + d.id, Path: must2(os.Executable())(t), Args: []string{"--config", d.config},
		Env: []string{"AGENT_TEST_RUN=1"}, LogFile: d.path("agent.log"),
	})
	d.eventually("the component", func() error { return d.logged("component launched") })
	d.eventually("an attempt", func() error { return d.logged("device is not managed") })
	d.forgetLog()
	// Another's, as when a renewal was interrupted between the two files.
	write(must[[]byte](t)(os.ReadFile(f.path("broker.crt"))))
	d.eventually("another attempt", func() error { return d.logged("device is not managed", "not the certificate's") })
	if d.logged("component ended") == nil || d.logged("component launched") == nil {
		t.Error("the component did not run on")
	}
	write(good)
	d.checkedIn()
	if err := d.process.Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
	// In service it is not even ended by a renewal that went to the wrong device.
	d.forgetLog()
	other := must[certs.Credential](t)(f.ca.IssueDevice("cam-2", model, hardware, time.Hour))
	if err := other.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		t.Fatal(err)
	}
	d.process = devtest.Start(t, devstack.Spec{
		Name: "agent-" + d.id, Path: must2(os.Executable())(t), Args: []string{"--config", d.config},
		Env: []string{"AGENT_TEST_RUN=1"}, LogFile: d.path("agent.log"),
	})
	d.eventually("the refusal", func() error { return d.logged("device is not managed", "wrong certificate") })
	d.component()
	own := must[certs.Credential](t)(f.ca.IssueDevice("cam-1", model, hardware, time.Hour))
	if err := own.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		t.Fatal(err)
	}
	d.eventually("the check-in with its own", func() error { return d.logged("check-in complete") })
	if d.logged("component ended") == nil {
		t.Error("the component did not run on")
	}
}

// A disk that fails is mounted read-only by the kernel.
func TestLockNeedsNoWriting(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/lock", 0o700); err != nil { // cannot be opened for writing, by root either
		t.Fatal(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil {
		t.Error("two agents on one directory")
	}
	unlock()
}

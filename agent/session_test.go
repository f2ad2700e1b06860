package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// last is the newest heartbeat, or an error.
func (d *device) last(ok func(topics.Heartbeat) error) func() error {
	return func() error {
		list := d.fleet.heartbeats(d.id)
		if len(list) == 0 {
			return errors.New("no heartbeat yet")
		}
		return ok(list[len(list)-1])
	}
}

func TestUnknownDeviceMakesItselfKnown(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	d.start("")
	d.eventually("a heartbeat", d.last(func(h topics.Heartbeat) error {
		if h.Versions["system"] != "1.0.0" || h.Assignment != 0 || h.Mode != topics.ModeConnected {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.eventually("the check-in to be told", func() error {
		if err := d.logged("check-in complete"); err != nil {
			return err
		}
		return nil
	})
}

func TestDeviceInThreeCohortsFollowsItsAssignment(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	two := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "heartbeat: 100ms\n")
	older, newer := entry(one), entry(two)
	f.manifest("a", older)
	f.manifest("c", older)
	f.assign("cam-1", []string{"a", "b", "c"})
	d.start("")
	d.eventually("the manifests of a and c", d.last(func(h topics.Heartbeat) error {
		if len(h.Manifests) != 2 || h.CheckInMillis != 0 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	if got := f.statuses("cam-1"); len(got) != 0 {
		t.Fatalf("decided without the manifest of b: %+v", got)
	}
	f.manifest("b", newer)
	d.ends(newer.Rollout, topics.StateCommitted)
	d.runs("1.2.0", two.SHA256)
	if n := len(f.statuses("cam-1")); n != 5 {
		t.Errorf("%d reports, all of one rollout expected", n)
	}
	f.assign("cam-1", []string{"c"})
	d.eventually("a and b to be left", d.last(func(h topics.Heartbeat) error {
		if len(h.Manifests) != 1 || h.Manifests["c"] == 0 || h.CheckInMillis == 0 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	// 1.1.0 is the winner of what is left, and a downgrade.
	d.eventually("the word that it is a downgrade", func() error {
		all := f.statuses("cam-1")
		if s := all[len(all)-1]; s.State != topics.StateWaiting || s.Reason != "downgrade" || s.Rollout != older.Rollout {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

func TestBatteryDeviceInstallsBetweenItsCheckIns(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "mode: polling\npolling: {interval: 1h, jitter: 10ms}\n")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	// One check-in to learn of it, one for the last look before the jump, one to
	// tell the end: none of them waits for the hour.
	d.ends(e.Rollout, topics.StateCommitted)
	d.runs("1.1.0", image.SHA256)
	d.eventually("the heartbeat with what runs now", d.last(func(h topics.Heartbeat) error {
		if h.Mode != topics.ModePolling || h.IntervalSeconds != 3601 || h.Versions["system"] != "1.1.0" || h.CheckInMillis == 0 {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	f.mu.Lock()
	defer f.mu.Unlock()
	left := 0
	for _, m := range f.received {
		if m.Topic == topics.DevicePresence("cam-1") && bytes.Contains(m.Payload, []byte(`"connected":false`)) {
			left++
		}
	}
	if left == 0 {
		t.Error("it never disconnected")
	}
}

func TestAssignmentSetsModeAndHeartbeat(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"}, func(a *topics.Assignment) {
		a.Polling = topics.Polling{Mode: topics.ModePolling, IntervalSeconds: 1}
	})
	d.start("")
	d.eventually("a second check-in by polling", func() error {
		n := 0
		for _, h := range f.heartbeats("cam-1") {
			if h.Mode == topics.ModePolling {
				n++
			}
		}
		if n < 3 {
			return fmt.Errorf("%d heartbeats while polling", n)
		}
		return nil
	})
	// Sent while it sleeps, most likely: the broker keeps it.
	f.command("cam-1", topics.Command{ID: "tell", Action: topics.CommandReport})
	d.eventually("the answer to a command", d.last(func(h topics.Heartbeat) error {
		if h.Command != "tell" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	f.assign("cam-1", []string{"lobby"}, func(a *topics.Assignment) {
		a.Polling.Mode = topics.ModeConnected
		a.Telemetry.HeartbeatSeconds = 1
	})
	d.eventually("to stay connected", d.last(func(h topics.Heartbeat) error {
		if h.Mode != topics.ModeConnected {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
}

func TestLogsAreSentOnCommand(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()
	// What is sent is what has been said so far, and firmware that was launched
	// a moment ago may not have spoken: ask again, once the answer is there.
	asked := 0
	d.eventually("the logs", func() error {
		answers, spoken := 0, false
		for _, l := range f.logs("cam-1") {
			if l.Source == "agent" && strings.Contains(l.Text, "agent runs") {
				answers++
			}
			spoken = spoken || l.Source == "system" && strings.Contains(l.Text, "firmware 1.0.0")
		}
		if answers > 0 && spoken {
			return nil
		}
		if answers == asked {
			asked++
			f.command("cam-1", topics.Command{ID: fmt.Sprintf("logs-%d", asked), Action: topics.CommandLogs})
		}
		return fmt.Errorf("%d answers to %d commands, the firmware's among them: %v", answers, asked, spoken)
	})
}

func TestRefusedManifestChangesNothingAndIsReported(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby")
	f.manifest("garden", entry(image))
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()
	// The garden's manifest, validly signed, on the lobby's topic.
	version := f.next()
	f.mu.Lock()
	pin := f.pin
	f.mu.Unlock()
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: "garden",
		Version: version, Issued: time.Now(), Images: &pin, Entries: []topics.Entry{entry(image)},
	}
	raw := must[[]byte](t)(trust.SignManifest(m, time.Now().Add(time.Hour), f.director))
	f.publish(topics.CohortManifest("lobby"), raw, version)
	d.eventually("the refusal to be reported", func() error {
		for _, l := range f.logs("cam-1") {
			if strings.Contains(l.Text, "metadata for another cohort or device") {
				return nil
			}
		}
		return fmt.Errorf("%+v", f.logs("cam-1"))
	})
	if got := f.statuses("cam-1"); len(got) != 0 {
		t.Errorf("it acted: %+v", got)
	}
}

// A director key that the device does not know yet: the refused manifest makes
// it look for the root that names the key, and then is accepted.
func TestNewDirectorKeyIsLearned(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()

	second := must[*trust.Key](t)(trust.GenerateKey())
	spec := f.directorSpec()
	spec.Targets.Keys = append(spec.Targets.Keys, second.Public())
	root := must[[]byte](t)(trust.RotateRoot(f.directorRoot, spec, f.root))
	f.mu.Lock()
	f.files["/repository/director/2.root.json"] = root
	f.director = second
	f.mu.Unlock()
	e := entry(image)
	f.manifest("lobby", e)
	d.ends(e.Rollout, topics.StateCommitted)
}

func TestReportsWaitForTheBroker(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	hold := make(chan struct{})
	f.mu.Lock()
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			<-hold
		}
		return false
	}
	f.mu.Unlock()
	d := f.newDevice(t, "cam-1", "mqtt: {servers: ["+"\"mqtts://"+f.broker.Addr("mqtt")+"\"], keep_alive: 5s}\n")
	d.replace("mqtt: {servers: [\"mqtts://"+f.broker.Addr("mqtt")+"\"]}\n", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the download", func() error { return d.logged(`"state":"downloading"`) })
	// Gone while the device verifies: it has no session for the last look, and
	// does not jump.
	if err := f.broker.Signal(stopSignal); err != nil {
		t.Fatal(err)
	}
	close(hold)
	d.eventually("staging", func() error { return d.logged(`"state":"staged"`) })
	d.process.Kill()
	if err := f.broker.Signal(goSignal); err != nil {
		t.Fatal(err)
	}
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	var last topics.Status
	for _, s := range f.statuses("cam-1") {
		if s.Epoch != last.Epoch && last.Epoch != 0 || s.Sequence <= last.Sequence {
			t.Errorf("out of order: %+v after %+v", s, last)
		}
		last = s
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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

func TestPausedRolloutIsNotActivated(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", good.Bytes)
	e := entry(image)
	paused := e
	paused.Revision, paused.State = 2, topics.EntryPaused
	hold := make(chan struct{})
	f.mu.Lock()
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/artifacts/") {
			return false
		}
		select {
		case <-hold:
			return false
		case <-r.Context().Done():
			return true
		}
	}
	f.mu.Unlock()
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the download", func() error { return d.logged("deployment", `"state":"downloading"`) })
	f.manifest("lobby", paused)
	d.eventually("the word that it waits", func() error {
		all := f.statuses("cam-1")
		if len(all) == 0 || all[len(all)-1].State != topics.StateWaiting || all[len(all)-1].Reason != "paused" {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	close(hold)
	resumed := e
	resumed.Revision = 3
	f.manifest("lobby", resumed)
	if s := d.ends(e.Rollout, topics.StateCommitted); s.Attempt != 1 {
		t.Errorf("being paused has cost an attempt: %+v", s)
	}
}

func TestCancelledWhileItWaitsForItsWindow(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	// A window that has just closed, in a zone that the device does not have by
	// itself.
	zone := must[*time.Location](t)(time.LoadLocation("Asia/Kathmandu"))
	local := time.Now().In(zone)
	e := entry(image, func(e *topics.Entry) {
		e.Windows = []topics.Window{{Start: local.Add(-3 * time.Hour).Format("15:04"), End: local.Add(-time.Hour).Format("15:04")}}
	})
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"}, func(a *topics.Assignment) { a.TimeZone = "Asia/Kathmandu" })
	d.start("")
	d.eventually("the word that it waits", func() error {
		all := f.statuses("cam-1")
		if len(all) != 1 || all[0].State != topics.StateWaiting || all[0].Reason != "window" || all[0].Until == nil {
			return fmt.Errorf("%+v", all)
		}
		if in := time.Until(*all[0].Until); in < 20*time.Hour || in > 22*time.Hour {
			return fmt.Errorf("until %v", all[0].Until)
		}
		return nil
	})
	f.manifest("lobby")
	d.eventually("the empty manifest", func() error { return d.manifests(2) })
	d.runs("1.0.0", "")
}

// manifests is nil when at least n manifests were accepted.
func (d *device) manifests(n int) error {
	data := string(must[[]byte](d.t)(os.ReadFile(d.path("agent.log"))))
	if got := strings.Count(data, "manifest accepted"); got < n {
		return fmt.Errorf("%d accepted", got)
	}
	return nil
}

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

func TestGivesUpAfterItsAttemptsUntilToldToTryAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "crash").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(image, func(e *topics.Entry) { e.Attempts = 2 })
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	attempts := func() (ended []int) {
		for _, s := range f.statuses("cam-1") {
			if s.State == topics.StateRolledBack {
				ended = append(ended, s.Attempt)
			}
		}
		return ended
	}
	d.eventually("two attempts", func() error {
		if got := fmt.Sprint(attempts()); got != "[1 2]" {
			return errors.New(got)
		}
		return nil
	})
	d.rests()
	if r := must[journal.Record](t)(journal.Read(d.data())); r.Failures[e.Rollout].Count != 2 {
		t.Fatalf("journal: %+v", r.Failures)
	}
	for source, text := range map[string]string{"system": "firmware 1.2.0", "agent": "component launched"} {
		logs := slices.DeleteFunc(f.logs("cam-1"), func(l topics.Log) bool { return l.Source != source })
		if len(logs) < 2 || !strings.Contains(logs[0].Text, text) || logs[0].Rollout != e.Rollout {
			t.Errorf("what %s said: %+v", source, logs)
		}
	}
	f.command("cam-1", topics.Command{ID: "again", Action: topics.CommandRetry, Rollout: e.Rollout})
	d.eventually("attempts after the command", func() error {
		if got := fmt.Sprint(attempts()); got != "[1 2 3 4]" {
			return errors.New(got)
		}
		return nil
	})
	d.eventually("the command's answer", d.last(func(h topics.Heartbeat) error {
		if h.Command != "again" {
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

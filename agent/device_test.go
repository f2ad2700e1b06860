package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// device is an agent process with its directory.
type device struct {
	t       *testing.T
	fleet   *fleet
	id      string
	dir     string
	config  string // path
	text    string // of it, without that of the components
	root    string // of /proc and /sys, where it is not the machine's
	process *devstack.Process
}

// newDevice is a device that leaves the factory with 1.0.0. extra is added to
// its configuration.
func (f *fleet) newDevice(t *testing.T, id, extra string) *device {
	t.Helper()
	return f.newDeviceOf(t, id, initial(t)+`
health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
firmware: {tries: 3, backoff: {min: 10ms, max: 50ms}}
`+extra)
}

// initial is 1.0.0 of the firmware, as configuration.
func initial(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("initial: {artifact: %s, version: 1.0.0}", agenttest.Firmware(t, "1.0.0", "healthy").Path)
}

// newDeviceOf is a device of which the configuration of its components is components.
func (f *fleet) newDeviceOf(t *testing.T, id, components string) *device {
	t.Helper()
	d := &device{t: t, fleet: f, id: id, dir: t.TempDir()}
	credential := must[certs.Credential](t)(f.ca.IssueDevice(id, model, hardware, time.Hour))
	if err := credential.Save(d.path("device.crt"), d.path("device.key")); err != nil {
		t.Fatal(err)
	}
	d.config = d.path("agent.yaml")
	text := fmt.Sprintf(`
device: %s
trust_domain: %s
data_dir: %s
mqtt: {servers: ["mqtts://%s"]}
tls: {cert: %s, key: %s, ca: %s}
trust: {image_root: %s, director_root: %s}
sources: [%s]
backoff: {min: 10ms, max: 200ms}
retry: {min: 10ms, max: 50ms}
addresses_file: %s
`, id, domain, d.path("data"), f.broker.Addr("mqtt"), d.path("device.crt"), d.path("device.key"), f.path("ca.crt"),
		f.path("image-root.json"), f.path("director-root.json"), f.source.URL,
		d.path("addresses.json"))
	d.text = text
	d.configure(components)
	return d
}

// configure writes the configuration, with that of its components.
func (d *device) configure(components string) {
	d.t.Helper()
	if err := os.WriteFile(d.config, []byte(d.text+components), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) data() string { return d.path("data") }

// start runs the agent; with killAt it kills itself at that point.
func (d *device) start(killAt string) {
	d.t.Helper()
	d.process = devtest.Start(d.t, devstack.Spec{
		Name: "agent-" + d.id, Path: must2(os.Executable())(d.t), Args: []string{"--config", d.config, "--log-level", "debug"},
		Env:     []string{"AGENT_TEST_RUN=1", "AGENT_TEST_KILL_AT=" + killAt, "AGENT_TEST_CLOCK=" + d.path("clock"), "AGENT_TEST_ROOT=" + d.root},
		LogFile: d.path("agent.log"), AddressesFile: d.path("addresses.json"),
	})
}

// awaitKill waits until the agent has killed itself.
func (d *device) awaitKill() {
	d.t.Helper()
	select {
	case <-d.process.Done():
		if code := d.process.Wait(); code != -1 {
			d.t.Fatalf("it ended with code %d\n%s", code, d.process.LogTail(20))
		}
	case <-time.After(2 * time.Minute):
		d.t.Fatalf("it was not killed\n%s", d.process.LogTail(40))
	}
}

func (d *device) eventually(what string, cond func() error) {
	d.t.Helper()
	devtest.Eventually(d.t, 90*time.Second, d.id+": "+what, cond)
}

// checkedIn waits until the device has heard everything that it asked for.
func (d *device) checkedIn() {
	d.t.Helper()
	d.eventually("the check-in", func() error { return d.logged("check-in complete") })
}

// ends waits for the terminal report of a rollout's attempt and for rest, and
// checks that there was exactly one.
func (d *device) ends(rollout string, want topics.State) topics.Status {
	d.t.Helper()
	var last topics.Status
	d.eventually(string(want)+" of "+rollout, func() error {
		n := 0
		var states []string
		for _, s := range d.fleet.statuses(d.id) {
			states = append(states, string(s.State))
			if s.Rollout == rollout && s.State.Terminal() {
				last = s
				n++
			}
		}
		if n == 0 {
			return fmt.Errorf("states so far: %v", states)
		}
		return nil
	})
	d.rests()
	n := 0
	for _, s := range d.fleet.statuses(d.id) {
		if s.Rollout == rollout && s.State.Terminal() {
			n++
		}
	}
	if n != 1 || last.State != want {
		d.t.Fatalf("%s: %d terminal reports, the last is %s (%s %s), want one %s\n%s", d.id, n, last.State, last.Reason, last.Detail, want, d.process.LogTail(40))
	}
	return last
}

// rests waits until nothing is in progress and no report waits.
func (d *device) rests() {
	d.t.Helper()
	d.eventually("rest", d.resting)
}

func (d *device) resting() error {
	r, err := journal.Read(d.data())
	if err != nil {
		return err
	}
	for _, q := range r.Queue {
		if q.Kind != topics.KindHeartbeat {
			return fmt.Errorf("a %s waits", q.Kind)
		}
	}
	for _, dep := range r.Deployments {
		if dep.State != update.Idle {
			return fmt.Errorf("in state %s", dep.State)
		}
	}
	return nil
}

// runs checks what is in the active slot, byte by byte, and that nothing is on
// trial.
func (d *device) runs(version, digest string) {
	d.t.Helper()
	d.runsIn("slots", version, digest)
}

// runsIn is runs for the component whose slots are in that directory.
func (d *device) runsIn(slots, version, digest string) {
	d.t.Helper()
	dir := must[*slot.Dir](d.t)(slot.OpenDir(filepath.Join(d.data(), slots)))
	name, image, err := dir.Active()
	if err != nil {
		d.t.Fatal(err)
	}
	data := must[[]byte](d.t)(os.ReadFile(filepath.Join(d.data(), slots, name, "artifact")))
	sum := sha256.Sum256(data)
	if image.Version != version || digest != "" && hex.EncodeToString(sum[:]) != digest || image.SHA256 != hex.EncodeToString(sum[:]) {
		d.t.Fatalf("%s: slot %s holds %+v, with digest %x; want %s", d.id, name, image, sum[:8], version)
	}
	if _, err := os.Stat(filepath.Join(d.data(), slots, "trial.json")); !errors.Is(err, os.ErrNotExist) {
		d.t.Errorf("%s: a trial is left: %v", d.id, err)
	}
}

// replace changes a line of the device's configuration.
func (d *device) replace(old, new string) {
	d.t.Helper()
	data := string(must[[]byte](d.t)(os.ReadFile(d.config)))
	if !strings.Contains(data, old) {
		d.t.Fatalf("no %q in the configuration", old)
	}
	if err := os.WriteFile(d.config, []byte(strings.Replace(data, old, new, 1)), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// logged is nil when the agent has logged a line with all of the parts.
func (d *device) logged(parts ...string) error {
	data, err := os.ReadFile(d.path("agent.log"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			return nil
		}
	}
	return fmt.Errorf("no line with %q in the log", parts)
}

func (d *device) forgetLog() {
	d.t.Helper()
	if err := os.Truncate(d.path("agent.log"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// staged is nil when a download has at least n bytes on disk.
func (d *device) staged(n int64) error {
	files, err := filepath.Glob(filepath.Join(d.data(), "slots", "*", "staging-*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.Size() >= n {
			return nil
		}
	}
	return fmt.Errorf("%v", files)
}

// A process that is stopped keeps its connections and answers nothing.
const (
	stopSignal = syscall.SIGSTOP
	goSignal   = syscall.SIGCONT
)

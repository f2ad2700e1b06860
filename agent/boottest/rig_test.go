package boottest

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/internal/qemu"
)

const (
	device  = "dev-1"
	model   = "box"
	cohort  = "all"
	release = "system"
	first   = "1.0.0"
	tries   = 3 // boots of a trial
)

// patience is for a machine whose processor is emulated, on a host that does a dozen
// other things.
const patience = 5 * time.Minute

// rig is one device that boots, and the platform that updates it.
type rig struct {
	*testing.T
	stack   *stack.Stack
	parts   Parts
	machine *Machine
}

// newRig starts all of it; the device runs version 1.0.0 in slot a. change changes the
// agent's configuration.
func newRig(t *testing.T, change ...func(stack.Config)) *rig {
	t.Helper()
	r := &rig{T: t}
	var err error
	if r.stack, err = stack.Start(t.Context(), stack.Options{WithoutInflux: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.stack.Stop() }) // whatever is wrong, was found
	if r.parts, err = MakeParts(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	image := r.image(System{Version: first})
	data := filepath.Join(r.parts.dir, "data")
	r.must(os.Mkdir(data, 0o700))
	options := stack.AgentOptions{ID: device, Model: model, Hardware: "r1", Config: func(c stack.Config) {
		c.Set("grub", "machine", "bootloader")
		c.Set(DeviceA, "machine", "a")
		c.Set(DeviceB, "machine", "b")
		c.Set(VersionFile, "machine", "version_file")
		c.Set(Addr, "machine", "addr")
		c.Set(tries, "machine", "tries")
		c.Set([]string{"/sbin/reboot"}, "machine", "restart")
		c.Set("5s", "health", "timeout") // a check takes long where a second is long
		for _, set := range change {
			set(c)
		}
	}}
	r.must(r.stack.MakeDevice(options, data, DataDir, qemu.HostAddr))
	r.must(r.stack.API(t.Context(), "POST", "/v1/devices/import", map[string]any{"devices": []any{map[string]string{"id": device, "region": cohort}}}, nil))
	r.must(r.stack.API(t.Context(), "POST", "/v1/cohorts", map[string]string{"name": cohort, "selector": "region=" + cohort}, nil))
	if r.machine, err = MakeMachine(t.Context(), r.parts.dir, device, image, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.machine.Cut()
		if t.Failed() {
			t.Logf("end of the console:\n%s", r.machine.Tail())
		}
	})
	r.on("")
	r.runs(first, "a "+first)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) image(s System) string {
	r.Helper()
	image, err := r.parts.Image(r.Context(), s)
	r.must(err)
	return image
}

// on switches the device on.
func (r *rig) on(drive string) {
	r.Helper()
	r.must(r.machine.Start(r.Context(), drive))
}

// rollout begins to bring a system to the device; what the console said before is
// forgotten.
func (r *rig) rollout(s System) (id string) {
	r.Helper()
	r.must(r.stack.Publish(r.Context(), release, s.Version, r.image(s), []string{model}))
	r.must(r.machine.Listen())
	rollout, err := r.stack.CreateRollout(r.Context(), map[string]any{
		"release": map[string]string{"name": release, "version": s.Version}, "cohorts": []string{cohort},
		"policy": map[string]any{
			"waves":    []any{map[string]any{"percent": 100, "spread": "0s", "soak": "0s"}},
			"breaker":  map[string]any{"percent": 100},
			"attempts": 1, "settle": "2s", "health_timeout": "30s",
		},
	})
	r.must(err)
	return rollout.ID
}

// says waits until the console has said text since the rollout began.
func (r *rig) says(text string) {
	r.Helper()
	devtest.Eventually(r, patience, "the console", func() error { return r.machine.Said(text) })
}

// ends waits for the end of the rollout, and wants it to be that one, reported once,
// with the version running that belongs to it, after these boots.
func (r *rig) ends(rollout, state, version string, boots ...string) {
	r.Helper()
	began := time.Now()
	devtest.Eventually(r, patience, "the report of the end", func() error {
		if err := r.machine.Said(""); err != nil {
			r.Fatal(err)
		}
		states, err := r.reported(rollout)
		if err == nil && len(terminal(states)) == 0 {
			err = fmt.Errorf("reported are %v", states)
		}
		return err
	})
	r.runs(version, boots...)
	states, err := r.reported(rollout)
	if got := terminal(states); err != nil || !slices.Equal(got, []string{state}) {
		r.Fatalf("reported are %v, %v; want one end, %s", states, err, state)
	}
	outcomes, err := r.stack.Outcomes(r.Context(), rollout)
	if err != nil || len(outcomes) != 1 || outcomes[0].State != state || outcomes[0].Attempt != 1 {
		r.Fatalf("outcomes %+v, %v", outcomes, err)
	}
	r.Logf("%s of %s: reported %v, reason %s; boots %v; %v", state, version, states, outcomes[0].Reason, boots, time.Since(began).Round(time.Second))
}

func terminal(states []string) []string {
	return slices.DeleteFunc(slices.Clone(states), func(s string) bool { return s != "committed" && s != "rolled_back" && s != "failed" })
}

// reported are the states that the device has reported of a rollout, in its order.
func (r *rig) reported(rollout string) ([]string, error) {
	out, err := r.stack.Postgres.Query(r.Context(), "groundswell",
		fmt.Sprintf("SELECT state FROM report WHERE device = '%s' AND rollout = '%s' ORDER BY epoch, sequence", device, rollout))
	return strings.Fields(out), err
}

// runs waits until the device is connected and says that it runs the version, and
// wants to have seen these boots.
func (r *rig) runs(version string, boots ...string) {
	r.Helper()
	devtest.Eventually(r, patience, "the device to run "+version, func() error {
		if err := r.machine.Said(""); err != nil {
			r.Fatal(err)
		}
		got, err := r.machine.Boots()
		if err != nil {
			return err
		}
		if len(got) < len(boots) {
			return fmt.Errorf("boots %q", got)
		}
		devices, err := r.stack.Devices(r.Context(), url.Values{"component": {"system"}, "version": {version}})
		if err == nil && (len(devices) != 1 || !devices[0].Connected) {
			err = errors.New("it is not connected, or runs another")
		}
		return err
	})
	if got, err := r.machine.Boots(); err != nil || !slices.Equal(got, boots) {
		r.Fatalf("booted were %q, %v; want %q", got, err, boots)
	}
}

// bootID is that of the device's newest heartbeat.
func (r *rig) bootID() string {
	r.Helper()
	id, err := r.stack.Postgres.Query(r.Context(), "groundswell", "SELECT heartbeat->>'boot_id' FROM contact WHERE device = '"+device+"'")
	r.must(err)
	return id
}

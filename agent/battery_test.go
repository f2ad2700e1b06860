package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/deploy"
	"groundswell/topics"
)

// battery gives the device one.
func (d *device) battery(percent int, status string) {
	d.t.Helper()
	dir := d.path("root/sys/class/power_supply/BAT0")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	for name, text := range map[string]string{"type": "Battery", "status": status, "capacity": fmt.Sprint(percent)} {
		// As sysfs does it: whoever reads gets all of it.
		if err := os.WriteFile(d.path(name+".new"), []byte(text+"\n"), 0o600); err != nil {
			d.t.Fatal(err)
		}
		if err := os.Rename(d.path(name+".new"), filepath.Join(dir, name)); err != nil {
			d.t.Fatal(err)
		}
	}
	d.root = d.path("root")
}

// gone is nil when the broker has said that the device went, for a reason, last of all.
func (d *device) gone(reason string) error {
	d.fleet.mu.Lock()
	defer d.fleet.mu.Unlock()
	err := errors.New("no presence")
	for _, m := range d.fleet.received {
		if m.Topic == topics.DevicePresence(d.id) {
			if p := must[topics.Presence](d.t)(topics.DecodePresence(m.Payload)); p.Connected || p.Reason != reason {
				err = fmt.Errorf("%+v", p)
			} else {
				err = nil
			}
		}
	}
	return err
}

func TestDeviceWithALowBatteryPollsSaysSoAndComesBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "polling: {interval: 1h, jitter: 1h, below_percent: 20, back_percent: 30}\n")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.battery(80, "Discharging")
	d.start("")
	is := func(mode topics.Mode, reason string, interval int64) func() error {
		return d.last(func(h topics.Heartbeat) error {
			if h.Mode != mode || h.ModeReason != reason || h.IntervalSeconds != interval {
				return fmt.Errorf("%+v", h)
			}
			return nil
		})
	}
	d.eventually("a connected heartbeat", is(topics.ModeConnected, "", 0))
	for range 2 {
		d.battery(15, "Discharging")
		d.eventually("its goodbye", func() error { return d.gone("client") })
		if err := is(topics.ModePolling, topics.ModeReasonBattery, 7200)(); err != nil {
			t.Errorf("it went without a word: %v", err)
		}
		d.battery(15, "Charging")
		d.eventually("a heartbeat that says that it stays", is(topics.ModeConnected, "", 0))
	}
}

func TestSessionOutlivesASleepThatTheBrokerHasNotHeardOf(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	d.replace("mqtt: {", "mqtt: {keep_alive: 1s, session_expiry: 1h, ")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.checkedIn()
	if err := d.process.Signal(stopSignal); err != nil {
		t.Fatal(err)
	}
	d.eventually("the broker to give up its connection", func() error { return d.gone("keepalive") })
	f.command("cam-1", topics.Command{ID: "c-1", Action: topics.CommandReport})
	d.forgetLog()
	if err := d.process.Signal(goSignal); err != nil {
		t.Fatal(err)
	}
	d.eventually("the command's answer", d.last(func(h topics.Heartbeat) error {
		if h.Command != "c-1" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
	if err := d.logged("connected to broker", `"session_present":true`); err != nil {
		t.Error(err)
	}
}

func TestCommandWaitsForTheNextWake(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newModule(t, "cam-1", "")
	d.replace("mqtt: {", "mqtt: {keep_alive: 1s, session_expiry: 1h, ")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	for wake := range 3 {
		if wake > 0 {
			d.eventually("its goodbye", func() error { return d.gone("client") })
			f.command("cam-1", topics.Command{ID: fmt.Sprintf("c-%d", wake), Action: topics.CommandReport})
		}
		if code, says := d.once(); code != 0 || says.Left {
			t.Fatalf("wake %d: code %d, %+v", wake, code, says)
		}
	}
	d.eventually("the answer to the last command", d.last(func(h topics.Heartbeat) error {
		if h.Command != "c-2" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
}

func TestSpentBudgetIsToldAndTheDownloadGoesOnInTheNextWake(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", fmt.Sprintf("mode: polling\npolling: {interval: 1h, jitter: 0s, bytes: %d}\n", image.Length/2))
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the report of the wait", func() error {
		for _, s := range f.statuses("cam-1") {
			if s.Reason == deploy.ReasonBudget && s.State == topics.StateDownloading {
				if s.DownloadedBytes == 0 || s.DownloadedBytes >= image.Length || s.Until == nil || time.Until(*s.Until) < 50*time.Minute {
					t.Errorf("%+v", s)
				}
				return nil
			}
		}
		return errors.New("none")
	})
	d.process.Kill()
	d.replace("interval: 1h", "interval: 200ms")
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	d.runs("1.1.0", image.SHA256)
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.requests["/artifacts/"+image.SHA256]; n < 3 || n > 4 {
		t.Errorf("%d requests for the artifact", n)
	}
}

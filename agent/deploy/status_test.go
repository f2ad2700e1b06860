package deploy

import (
	"slices"
	"strings"
	"testing"

	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/topics"
)

// TestNoReportKeepsTheDeviceFromGoingOn: whatever a hostile source, a script or a bug has
// put into it.
func TestNoReportKeepsTheDeviceFromGoingOn(t *testing.T) {
	for name, spoil := range map[string]func(*bank, *journal.Deployment){
		"escaped":  func(_ *bank, dep *journal.Deployment) { dep.Detail = strings.Repeat("<", 2500) },
		"version":  func(b *bank, _ *journal.Deployment) { b.running.Image.Version = "v1, I think" },
		"from":     func(_ *bank, dep *journal.Deployment) { dep.From = "?" },
		"attempt":  func(_ *bank, dep *journal.Deployment) { dep.Attempt = 1001 },
		"boot":     func(b *bank, _ *journal.Deployment) { b.running.BootID = "a b" },
		"reason":   func(_ *bank, dep *journal.Deployment) { dep.Reason = "I have no reason" },
		"digest":   func(b *bank, _ *journal.Deployment) { b.running.Image.SHA256 = "?" },
		"transfer": func(_ *bank, dep *journal.Deployment) { dep.Transfer.Peer = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := &bank{}
			b.running.Image.Version = "1.0.0"
			d, _ := newDriver(t, b, update.Failed)
			spoil(b, &d.dep)
			d.downloads = idle{pause: func() { t.Fatal("it waits for another disk") }}
			if event, err := d.close(t.Context()); event != update.Closed || err != nil {
				t.Fatalf("%q, %v", event, err)
			}
			report, _ := d.journal.Next()
			s, err := topics.DecodeStatus(report.Payload)
			if err != nil || s.State != topics.StateFailed || s.Rollout != "r-1" || !report.Final {
				t.Errorf("%+v, %v", s, err)
			}
			if name == "escaped" && len(s.Detail) < 500 {
				t.Errorf("of the detail %d bytes are left", len(s.Detail))
			}
		})
	}
}

// TestAReportThatCannotBeToldIsGivenUp: a committed one without a boot of its own, say.
func TestAReportThatCannotBeToldIsGivenUp(t *testing.T) {
	b := onTrial()
	d, _ := newDriver(t, b, update.Committed)
	d.dep.PreviousBootID = b.running.BootID
	d.downloads = idle{pause: func() { t.Fatal("it waits for another disk") }}
	if event, err := d.close(t.Context()); event != update.Closed || err != nil {
		t.Fatalf("%q, %v", event, err)
	}
	if n := len(d.journal.Snapshot().Queue); n != 0 || len(d.journal.Snapshot().Deployments) != 0 {
		t.Errorf("%d reports, %+v", n, d.journal.Snapshot().Deployments)
	}
}

// TestOneComponentCannotSilenceTheOthers: what one says of itself is part of what the
// device says of all.
func TestOneComponentCannotSilenceTheOthers(t *testing.T) {
	b := &bank{running: slot.Running{Image: slot.Image{Version: "1.0 or so"}, BootID: "a b"}}
	versions, boot := Versions("modem", b), BootID(b)
	if topics.CheckVersion("versions", versions["modem"]) != nil || topics.CheckID("boot_id", boot) != nil {
		t.Errorf("%v, %q", versions, boot)
	}
}

// TestTheAgentsLogGoesUpWhenAnUpdateFails: once for each attempt, and before anything
// boots the device; the component's with the report.
func TestTheAgentsLogGoesUpWhenAnUpdateFails(t *testing.T) {
	for state, event := range map[update.State]update.Event{update.Trying: update.Unhealthy, update.Downloading: update.Fail} {
		b := onTrial()
		b.output = "password=x, and not well"
		d, _ := newDriver(t, b, state)
		d.cfg.Log = func() string { return "of the agent in " + string(d.dep.State) }
		logs := func() (list []string) {
			for _, report := range d.journal.Snapshot().Queue {
				if l, err := topics.DecodeLog(report.Payload); err == nil && report.Kind == topics.KindLog && l.Rollout == "r-1" && l.Attempt == 1 {
					list = append(list, l.Source+": "+l.Text)
				}
			}
			return list
		}
		_, err := d.step(t.Context(), event)
		if err != nil || (len(logs()) == 1) != (event == update.Unhealthy) {
			t.Fatalf("%s: %v, %q", event, err, logs())
		}
		if got, err := d.close(t.Context()); got != update.Closed || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		want := []string{"agent: of the agent in " + string(d.dep.State), "system: password=[redacted], and not well"}
		if got := logs(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", event, got, want)
		}
	}
}

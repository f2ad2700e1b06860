package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// What a stolen fleetd can say with its director key, against what the release
// role has signed: the device names what does not agree, and downloads nothing.
func TestHostileDirector(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	firmware := agenttest.Firmware(t, "1.1.0", "healthy")
	old := f.publishRelease("0.9.0", agenttest.Firmware(t, "0.9.0", "healthy").Bytes)
	first := f.pin
	other := f.publishRelease("2.0.0", agenttest.Firmware(t, "2.0.0", "healthy").Bytes, func(i *trust.ReleaseImage) {
		i.Release.Name, i.Release.Models = "other", []string{"cam-z"}
	})
	revision := f.publishRelease("2.1.0", agenttest.Firmware(t, "2.1.0", "healthy").Bytes, func(i *trust.ReleaseImage) {
		i.Release.Name, i.Release.Hardware = "revised", []string{"rev-z"}
	})
	modem := f.publishRelease("2.2.0", agenttest.Firmware(t, "2.2.0", "healthy").Bytes, func(i *trust.ReleaseImage) { i.Release.Component = "modem" })
	newer := f.publishRelease("2.3.0", agenttest.Firmware(t, "2.3.0", "healthy").Bytes, func(i *trust.ReleaseImage) { i.Release.MinAgentSchema = 99 })
	needy := f.publishRelease("2.4.0", agenttest.Firmware(t, "2.4.0", "healthy").Bytes, func(i *trust.ReleaseImage) {
		i.Release.Requires = []trust.Requirement{{Component: "modem", Versions: ">=1"}}
	})
	image := f.publishRelease("1.1.0", firmware.Bytes, func(i *trust.ReleaseImage) { i.Release.SecurityFloor = "1.0.0" })
	mine := func(e *topics.Entry) { e.Models, e.Hardware = []string{model}, nil }
	for _, c := range []struct {
		name   string
		entry  topics.Entry
		reason string
		says   error
		pin    *topics.SnapshotPin
	}{
		{"a path that nobody signed", entry(image, func(e *topics.Entry) { e.Target.Path = "system/camera/6.6.6" }), "unknown-target", trust.ErrUnknownTarget, nil},
		{"a path that climbs", entry(image, func(e *topics.Entry) { e.Target.Path = "../../../etc/passwd" }), "unknown-target", trust.ErrUnknownTarget, nil},
		{"other bytes under a signed path", entry(image, func(e *topics.Entry) { e.Target.SHA256 = old.SHA256 }), "digest", trust.ErrDigest, nil},
		{"another length", entry(image, func(e *topics.Entry) { e.Target.Length = topics.MaxArtifact }), "length", trust.ErrLength, nil},
		{"another version", entry(image, func(e *topics.Entry) { e.Version = "6.6.6" }), "mismatch", trust.ErrMismatch, nil},
		{"another name", entry(image, func(e *topics.Entry) { e.Release = "other" }), "mismatch", trust.ErrMismatch, nil},
		{"a release for another model", entry(other, mine), "mismatch", trust.ErrMismatch, nil},
		{"a release for another revision", entry(revision, mine), "mismatch", trust.ErrMismatch, nil},
		{"a release for another component", entry(modem, func(e *topics.Entry) { e.Component = "system" }), "mismatch", trust.ErrMismatch, nil},
		{"a release for a newer agent", entry(newer), "schema", trust.ErrSchema, nil},
		{"a release that requires what is not here", entry(needy), "requires", errRequired, nil},
		{"a release below the floor", entry(old, func(e *topics.Entry) { e.Kind = topics.EntryRevert }), "security-floor", trust.ErrSecurityFloor, nil},
		// Mix-and-match: the list of releases of one moment under the name of another.
		{"a snapshot that is another", entry(image), "metadata", trust.ErrPin, &topics.SnapshotPin{Version: f.pin.Version, Length: f.pin.Length, SHA256: first.SHA256}},
		{"a snapshot of before the release", entry(image), "unknown-target", trust.ErrUnknownTarget, &first},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := f.hostileBroker(t, nil)
			p := papers{t, f, "cam-" + topicsafe(c.name), "of-" + topicsafe(c.name)}
			d := f.stolenBroker(t, p.device, b, "")
			b.retain(topics.DeviceAssignment(p.device), p.assignment(1, nil, time.Hour, f.director))
			b.retain(topics.CohortManifest(p.cohort), p.manifest(1, func(m *topics.Manifest) {
				m.Entries = []topics.Entry{c.entry}
				if c.pin != nil {
					m.Images = c.pin
				}
			}, time.Hour, f.director))
			d.start("")
			d.eventually("the exact reason", func() error {
				all := b.reports(p.device)
				for _, s := range all {
					if s.State == topics.StateFailed && s.Reason == c.reason && strings.Contains(s.Detail, c.says.Error()) {
						return nil
					}
				}
				return fmt.Errorf("%+v", all)
			})
			d.rests()
			d.unharmed()
			f.mu.Lock()
			n := f.requests["/artifacts/"+c.entry.Target.SHA256]
			f.mu.Unlock()
			if n != 0 && c.entry.Target.SHA256 != image.SHA256 {
				t.Errorf("it was downloaded %d times", n)
			}
			f.honestAgain(d, b, p.cohort, entry(image), image.SHA256)
		})
	}
}

// errRequired is what the device says of a release that requires something else.
var errRequired = fmt.Errorf("release requires something else")

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/topics"
	"groundswell/topics/pack"
)

// packOf is a pack of mcu and cam, in one version.
func packOf(t *testing.T, version, mode string) []byte {
	t.Helper()
	contents := map[string][]byte{"mcu": mcu(version), "cam": agenttest.Firmware(t, version, mode).Bytes}
	var list []pack.Member
	for _, name := range []string{"mcu", "cam"} {
		sum := sha256.Sum256(contents[name])
		list = append(list, pack.Member{Name: name, Version: version, SHA256: hex.EncodeToString(sum[:]), Length: int64(len(contents[name]))})
	}
	var out bytes.Buffer
	if err := pack.Write(&out, list, func(m pack.Member) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(contents[m.Name])), nil
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func mcu(version string) []byte { return []byte("version=" + version + "\n") }

// withGroup is a device of app, and of a group: mcu, which a module updates, and cam, a
// process.
func (f *fleet) withGroup(t *testing.T, id string) *device {
	t.Helper()
	d := f.newDeviceOf(t, id, "")
	if err := os.Mkdir(d.path("steps"), 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range map[string]string{
		"install":  `cp "$MODULE_ARTIFACT" "$D/new"`,
		"activate": `[ -e "$D/old" ] || cp "$D/mcu" "$D/old"; cp "$D/new" "$D/mcu"`,
		"commit":   `rm -f "$D/old"`,
		"rollback": `[ ! -e "$D/old" ] || mv "$D/old" "$D/mcu"`,
		"version":  `sed -n 's/^version=//p' "$D/mcu"`,
	} {
		text := fmt.Sprintf("#!/bin/sh\nset -e\nD=%s\n%s\n", d.dir, script)
		if err := os.WriteFile(d.path("steps/"+step), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(d.path("mcu"), mcu("1.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := string(must[[]byte](t)(os.ReadFile(d.config))) + fmt.Sprintf(`
components:
  - name: app
    %[1]s
    health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
  - {name: mcu, module: {steps: %[2]s, interval: 10ms}}
  - {name: cam, %[1]s, firmware: {backoff: {min: 10ms, max: 50ms}}}
  - name: set
    group: [mcu, cam]
    initial: {version: 1.0.0}
    health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}
heartbeat: 100ms
`, initial(t), d.path("steps"))
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// runsSet checks that all of the group is of that version, and that the registry would
// be told so.
func (d *device) runsSet(version string) {
	d.t.Helper()
	d.eventually("the heartbeat with what runs", d.last(func(h topics.Heartbeat) error {
		if len(h.Versions) != 2 || h.Versions["set"] != version {
			return fmt.Errorf("%+v", h.Versions)
		}
		return nil
	}))
	if got := must[[]byte](d.t)(os.ReadFile(d.path("mcu"))); !bytes.Equal(got, mcu(version)) {
		d.t.Errorf("the controller holds %q, want %s", got, version)
	}
	d.runsIn("slots-cam", version, "")
}

// TestAGroupKilledBetweenAnyTwoSteps: by SIGKILL, with everything else that an agent is.
func TestAGroupKilledBetweenAnyTwoSteps(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good, sick := packOf(t, "1.1.0", "healthy"), packOf(t, "1.2.0", "sick")
	for _, c := range []struct {
		name    string
		entry   topics.Entry
		points  string
		outcome topics.State
		version string
	}{
		{"good", entry(f.publishRelease("1.1.0", good, of("set"))),
			"after emptied,after stage mcu,after staged,after armed,after activate mcu,after activate cam,after decided,after confirm cam,after confirm mcu,after confirmed",
			topics.StateCommitted, "1.1.0"},
		{"sick", entry(f.publishRelease("1.2.0", sick, of("set")), func(e *topics.Entry) { e.HealthTimeoutSeconds = 1 }),
			"after over,after fall back cam,after fall back mcu,after back,after ended",
			topics.StateRolledBack, "1.0.0"},
	} {
		f.manifest(c.name, c.entry)
		for point := range strings.SplitSeq(c.points, ",") {
			t.Run(c.name+" killed "+point, func(t *testing.T) {
				t.Parallel()
				d := f.withGroup(t, c.name+"-"+strings.ReplaceAll(point, " ", "-"))
				f.assign(d.id, []string{c.name})
				d.start("set " + point)
				d.awaitKill()
				d.start("")
				s := d.ends(c.entry.Rollout, c.outcome)
				if s.Attempt != 1 || s.Running != c.version || s.Component != "set" || s.From != "1.0.0" {
					t.Errorf("report: %+v", s)
				}
				d.runsSet(c.version)
			})
		}
	}
}

// TestAPackForAnotherGroupIsRefused: and nothing is written to any member.
func TestAPackForAnotherGroupIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.withGroup(t, "cam-1")
	e := entry(f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes, of("set")))
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	if s := d.ends(e.Rollout, topics.StateFailed); s.Reason != "artifact" || s.Running != "1.0.0" {
		t.Errorf("report: %+v", s)
	}
	d.runsSet("1.0.0")
	if files, err := filepath.Glob(d.path("data/slots-cam/b/*")); err != nil || len(files) > 0 {
		t.Errorf("in the idle slot of cam: %v, %v", files, err)
	}
}

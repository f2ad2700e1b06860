package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/agent/deploy"
	"groundswell/agent/slot/slottest"
	"groundswell/internal/devstack/devtest"
)

// device has a module whose component is a file: what it holds runs.
type device struct {
	*testing.T
	dir    string
	cfg    Config
	module *Module
	off    func()
}

// The steps of a module that is well made: each can be called again.
var steps = map[string]string{
	"install":  `cp "$MODULE_ARTIFACT" "$DEVICE/new.part" && mv "$DEVICE/new.part" "$DEVICE/new"`,
	"activate": `[ -e "$DEVICE/old" ] || cp "$DEVICE/runs" "$DEVICE/old"; cp "$DEVICE/new" "$DEVICE/runs.part" && mv "$DEVICE/runs.part" "$DEVICE/runs"`,
	"verify":   `true`,
	"commit":   `rm -f "$DEVICE/old" "$DEVICE/new"`,
	"rollback": `[ ! -e "$DEVICE/old" ] || mv "$DEVICE/old" "$DEVICE/runs"; rm -f "$DEVICE/new"`,
	"version":  `sed -n 's/^version=//p' "$DEVICE/runs"`,
}

func fresh(t *testing.T) *device {
	t.Helper()
	d := &device{T: t, dir: t.TempDir(), off: func() {}}
	d.cfg = Config{
		Scripts: d.path("scripts"), Dir: d.path("module"), Tries: slottest.Tries, StepTime: time.Minute,
		Again: time.Millisecond, Patience: time.Minute, Interval: time.Millisecond,
	}
	if err := os.Mkdir(d.path("scripts"), 0o700); err != nil {
		t.Fatal(err)
	}
	for step, script := range steps {
		d.step(step, script)
	}
	d.write("runs", d.Bytes("1.0.0"))
	t.Cleanup(func() { d.off() })
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// write writes a file, maybe a script.
func (d *device) write(name string, data []byte) {
	d.Helper()
	if err := devtest.WriteProgram(d.path(name), data, 0o700); err != nil {
		d.Fatal(err)
	}
}

func (d *device) step(step, script string) {
	d.Helper()
	d.write("scripts/"+step, fmt.Appendf(nil, "#!/bin/sh\nset -e\nDEVICE=%s\necho \"$MODULE_STEP $MODULE_VERSION\" >>\"$DEVICE/calls\"\n%s\n", d.dir, script))
}

// calls are the steps since the last time, without those that only ask.
func (d *device) calls() []string {
	d.Helper()
	data, err := os.ReadFile(d.path("calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Fatal(err)
	}
	d.write("calls", nil)
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(data)), "\n"), func(call string) bool {
		return call == "" || strings.HasPrefix(call, "version") || strings.HasPrefix(call, "verify")
	})
}

func (d *device) Boot() deploy.Slots {
	d.Helper()
	d.off()
	m, err := Open(d.cfg)
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	d.off = func() {
		cancel()
		<-done
		d.off = func() {}
	}
	if err := m.Ready(d.Context()); err != nil {
		d.Fatal(err)
	}
	m.steps.Lock() // held until the steps of the start are over
	defer m.steps.Unlock()
	d.module = m
	return m
}

func (d *device) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	return d.module, do(d.Context())
}

func (d *device) Bytes(version string) []byte {
	return []byte("version=" + version + "\n" + strings.Repeat("x", 5000))
}

func (d *device) Damage(string) {
	data, err := os.ReadFile(d.module.artifact())
	if err != nil {
		d.Fatal(err)
	}
	data[len(data)/2] ^= 1
	d.write("module/artifact", data)
}

// stage puts a version in place.
func (d *device) stage(version string) {
	d.Helper()
	data := d.Bytes(version)
	image := slottest.Image(version, data)
	path, err := d.module.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err == nil {
		_, err = d.module.Stage(image)
	}
	if err != nil {
		d.Fatal(err)
	}
}

// killSteps ends the steps that hang.
func (d *device) killSteps() {
	d.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && strings.Contains(string(line), "MODULE_DIR="+d.path("module/work")) {
			var pid int
			if _, err := fmt.Sscan(e.Name(), &pid); err == nil {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill() // it may have ended
				}
			}
		}
	}
}

package rauc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/child"
	"groundswell/agent/deploy"
	"groundswell/agent/slot"
	"groundswell/agent/slot/slottest"
	"groundswell/internal/devstack/devtest"

	"github.com/godbus/dbus/v5"
)

// device has a bus and a RAUC of its own, two partitions, and a bootloader that is the
// real script, run by a shell, on an environment that the bootloader's real tools read and
// write.
type device struct {
	*testing.T
	dir        string
	partitions map[string]string
	loader     string // the script; it prints the slot, and the one to take if that cannot be loaded
	settings   string // of system.conf, beside the usual ones
	slotted    string // of its slots
	version    bool   // the system says what it is

	bus     *exec.Cmd
	service *exec.Cmd       // RAUC's
	without map[string]bool // the slots in which there is no RAUC
	running string
	boots   int
	slots   *Slots
	reset   func() // while somebody waits for a restart
	cut     func() // before each step that outlives a power cut
}

const (
	partition = 4 << 20
	magic     = "BOOT" // without it, nothing can be loaded
)

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// write writes a file, maybe a script.
func (d *device) write(name, text string) {
	d.Helper()
	if err := devtest.WriteProgram(d.path(name), []byte(text), 0o600); err != nil {
		d.Fatal(err)
	}
}

// run is a command that has to succeed.
func (d *device) run(name string, args ...string) string {
	d.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		d.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, needs)
	}
	return string(out)
}

const needs = "these tests are run as root, with what scripts/setup installs"

// rauc is RAUC's own command line, by its service.
func (d *device) rauc(args ...string) string {
	d.Helper()
	cmd := exec.Command("rauc", args...)
	cmd.Env = d.environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.Fatalf("rauc %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (d *device) environment() []string {
	return []string{"DBUS_SYSTEM_BUS_ADDRESS=" + d.address(), "PATH=" + d.dir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

func (d *device) address() string { return "unix:path=" + d.path("bus") }

// spawn starts a process that ends with the test.
func (d *device) spawn(name string, args ...string) *exec.Cmd {
	d.Helper()
	log, err := os.OpenFile(d.path(filepath.Base(name)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = d.environment(), log, log
	if err := child.Start(cmd); err != nil {
		d.Fatalf("%s: %v; %s", name, err, needs)
	}
	return cmd
}

// kill ends a process, and does nothing when that was done before.
func kill(cmd *exec.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed
	}
}

const busConfig = `<busconfig><listen>%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`

const systemConfig = `[system]
compatible=camera
statusfile=%[1]s/central.raucs
mountprefix=%[1]s/mnt
%[2]s
[keyring]
path=%[3]s

[handlers]
pre-install=%[1]s/pre-install

[slot.rootfs.0]
device=%[4]s
type=raw
bootname=a
%[6]s

[slot.rootfs.1]
device=%[5]s
type=raw
bootname=b
%[6]s
`

// fresh is a device with 1.0.0 in slot a; bootloader is what system.conf says of it.
func fresh(t *testing.T, partitions map[string]string, bootloader string) *device {
	t.Helper()
	t.Parallel()                               // it waits for processes, mostly
	dir, err := os.MkdirTemp(shared, "device") // a bus's address is short, and without a comma
	if err != nil {
		t.Fatal(err)
	}
	d := &device{T: t, dir: dir, partitions: partitions, version: true, cut: func() {}}
	d.settings = "activate-installed=false\n" + bootloader
	for _, dir := range []string{"data", "mnt"} {
		if err := os.Mkdir(d.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.overwrite("a", firmware("1.0.0"))
	d.write("bus.conf", fmt.Sprintf(busConfig, d.address()))
	// RAUC waits here while there is a file "gate".
	d.write("pre-install", fmt.Sprintf("#!/bin/sh\n: >%[1]s/installing\nwhile [ -e %[1]s/gate ]; do sleep 0.02; done\n", d.dir))
	if err := os.Chmod(d.path("pre-install"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.bus = d.spawn("dbus-daemon", "--config-file="+d.path("bus.conf"), "--nofork", "--nopidfile")
	t.Cleanup(func() {
		kill(d.service)
		kill(d.bus)
		_ = syscall.Unmount(d.path("mnt/bundle"), syscall.MNT_DETACH) // of a RAUC that was killed
		if t.Failed() {
			log, _ := os.ReadFile(d.path("rauc.log"))
			t.Logf("RAUC: %s", log[max(0, len(log)-4000):])
		}
	})
	devtest.Eventually(t, devtest.Patience, "the bus", func() error {
		_, err := os.Stat(d.path("bus"))
		return err
	})
	return d
}

// Boot does what the firmware and the bootloader do.
func (d *device) Boot() deploy.Slots {
	d.Helper()
	out, err := exec.Command("/bin/sh", "-c", d.loader).CombinedOutput()
	if err != nil {
		d.Fatalf("boot script: %v\n%s", err, out)
	}
	for _, name := range strings.Fields(string(out)) {
		if bytes.HasPrefix(d.read(name), []byte(magic)) {
			d.boots++
			if d.without[name] {
				kill(d.service)
				return d.open(name)
			}
			d.startRAUC(name)
			return d.start(name)
		}
	}
	d.Fatalf("none of %q can be loaded: the device is bricked", out)
	return nil
}

func (d *device) read(name string) []byte {
	d.Helper()
	data, err := os.ReadFile(d.partitions[name])
	if err != nil {
		d.Fatal(err)
	}
	return data
}

// overwrite is what nobody tells RAUC about.
func (d *device) overwrite(name string, data []byte) {
	d.Helper()
	file, err := os.OpenFile(d.partitions[name], os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteAt(data, 0)
		err = errors.Join(err, file.Sync(), file.Close())
	}
	if err != nil {
		d.Fatal(err)
	}
}

// startRAUC starts RAUC's service in a slot, and waits until it answers.
func (d *device) startRAUC(name string) {
	d.Helper()
	kill(d.service)
	d.write("system.conf", fmt.Sprintf(systemConfig, d.dir, d.settings, keys(d.T).cert, d.partitions["a"], d.partitions["b"], d.slotted))
	d.service = d.spawn("rauc", "--conf="+d.path("system.conf"), "service", "--override-boot-slot="+name)
	devtest.Eventually(d, devtest.Patience, "RAUC", func() error {
		_, err := service{address: d.address(), callTime: time.Second}.system(d.Context())
		return err
	})
}

// start starts the agent.
func (d *device) start(name string) deploy.Slots {
	d.Helper()
	s := d.open(name)
	if err := s.Adopt(d.Context()); err != nil {
		d.Fatal(err)
	}
	return s
}

// open is start, of an agent that has not asked RAUC for anything yet.
func (d *device) open(name string) *Slots {
	d.Helper()
	d.running = name
	s, err := Open(Config{
		Dir: d.path("data"), Bus: d.address(), Running: name, BootID: fmt.Sprint("boot-", d.boots), Again: 10 * time.Millisecond,
		Version: func() string { return d.says(name) },
		Restart: func(context.Context) error { d.reset(); return nil },
		Log:     slog.New(slog.NewTextHandler(d.Output(), nil)),
	})
	if err != nil {
		d.Fatal(err)
	}
	s.at = func() { d.cut() }
	d.slots = s
	return s
}

func (d *device) Do(do func(ctx context.Context) error) (deploy.Slots, error) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.Context())
	defer cancel()
	restarted := false
	d.reset = func() {
		restarted = true
		cancel()
	}
	if err := do(ctx); !restarted {
		return d.slots, err
	}
	return d.Boot(), nil
}

var versionLine = regexp.MustCompile(`^BOOT version=(\S+)\n`)

func (d *device) says(name string) string {
	if m := versionLine.FindSubmatch(d.read(name)); d.version && m != nil {
		return string(m[1])
	}
	return ""
}

func (d *device) Bytes(version string) []byte { return bundle(d.T, version) }

// firmware is an image.
func firmware(version string) []byte {
	data := fmt.Appendf(nil, "%s version=%s\n", magic, version)
	random := rand.NewChaCha8([32]byte{byte(len(version)), version[2]})
	body := make([]byte, 1<<20+12345)
	_, _ = random.Read(body) // never fails
	return append(data, body...)
}

func (d *device) Damage(name string) {
	data := d.read(name)
	data[1<<20] ^= 1
	d.overwrite(name, data)
}

// put has a device download and stage a version.
func (d *device) put(version string) error {
	d.Helper()
	return d.putBundle(version, bundle(d.T, version))
}

func (d *device) putBundle(version string, data []byte) error {
	d.Helper()
	image := slottest.Image(version, data)
	path, err := d.slots.Staging(image.SHA256)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		d.Fatal(err)
	}
	_, err = d.slots.Stage(image)
	return err
}

// staged is a device with 1.0.0 running and 1.1.0 staged; tried is one with that on trial.
func staged(t *testing.T) *device {
	t.Helper()
	d := grub(t)
	d.Boot()
	if err := d.put("1.1.0"); err != nil {
		t.Fatal(err)
	}
	return d
}

func tried(t *testing.T) *device {
	t.Helper()
	d := staged(t)
	if _, err := d.Do(d.slots.Activate); err != nil {
		t.Fatal(err)
	}
	return d
}

// hang stops a process where it is; the result has it go on.
func (d *device) hang(cmd *exec.Cmd) (goOn func()) {
	d.Helper()
	d.slots.service.callTime = 300 * time.Millisecond
	signal := func(s syscall.Signal) {
		d.Helper()
		if err := cmd.Process.Signal(s); err != nil {
			d.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	return func() {
		signal(syscall.SIGCONT)
		d.slots.service.callTime = time.Minute
	}
}

// connections is how many there are on the bus.
func (d *device) connections() int {
	d.Helper()
	conn, err := dbus.Connect(d.address())
	if err != nil {
		d.Fatal(err)
	}
	defer conn.Close()
	var names []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		d.Fatal(err)
	}
	return len(names)
}

// have wants to see what runs.
func (d *device) have(want slot.Running) {
	d.Helper()
	got := d.slots.Running()
	want.BootID = got.BootID
	if got != want {
		d.Fatalf("runs %+v, want %+v", got, want)
	}
}

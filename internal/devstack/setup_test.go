package devstack_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

// machine is a pretended machine for scripts/setup: a clone, a file system to
// look into, and a PATH whose programs are the test's.
type machine struct {
	t    *testing.T
	dir  string
	path string
}

// A server of a pretended build: go version -m is pretended too, and reads module
// and version from it.
const goStub = `
echo "go $*" >>"$MACHINE/calls"
case "$1" in
list) [ ! -e "$MACHINE/no-modules" ] || { echo "go: downloading a v1" >&2; echo 'Get "https://proxy.invalid/a": dial tcp: no such host' >&2; exit 1; } ;;
env) echo go1.26.0 ;;
version)
	m=github.com/influxdata/influxdb
	case "$3" in *versitygw) m=github.com/versity/versitygw ;; esac
	echo "	mod	$m	$(sed -n 's/^# //p' "$3")	h1:x" ;;
install)
	p="${2%@*}"; p="$GOBIN/${p##*/}"
	printf '#!/bin/sh\n# %s\n' "${2##*@}" >"$p"; chmod +x "$p"
	[ ! -e "$MACHINE/no-network" ] || { echo "no such host" >&2; exit 1; }
	[ ! -e "$MACHINE/slow" ] || { echo $$ >"$MACHINE/pid"; exec sleep 600; }
	;;
esac`

const aptStub = `
echo "apt-get $*" >>"$MACHINE/calls"
case "$*" in
*update*) [ ! -e "$MACHINE/no-network" ] || { echo "E: Failed to fetch http://deb.invalid: could not resolve" >&2; exit 100; }; rm -f "$MACHINE/no-lists" ;;
*download*) [ ! -e "$MACHINE/no-network" ] || { echo "E: Failed to fetch http://deb.invalid: could not resolve" >&2; exit 100; }; echo >kernel.deb ;;
*install*)
	[ ! -e "$MACHINE/broken-dpkg" ] || { echo "E: dpkg was interrupted" >&2; exit 100; }
	[ ! -e "$MACHINE/lying" ] || exit 0
	bin="$MACHINE/root/usr/lib/postgresql/15/bin"; mkdir -p "$bin"
	for p in initdb postgres pg_dump psql; do printf '#!/bin/sh\n' >"$bin/$p"; chmod +x "$bin/$p"; done
	mkdir -p "$MACHINE/root/usr/bin"
	case "$*" in *grub-common*) printf '#!/bin/sh\n' >"$MACHINE/root/usr/bin/grub-editenv"; chmod +x "$MACHINE/root/usr/bin/grub-editenv" ;; esac
	case "$*" in *libubootenv-tool*) printf '#!/bin/sh\n' >"$MACHINE/root/usr/bin/fw_printenv"; chmod +x "$MACHINE/root/usr/bin/fw_printenv" ;; esac
	for p in rauc dbus-daemon squashfs-tools; do
		case "$*" in *" $p"*) [ $p != squashfs-tools ] || p=mksquashfs; printf '#!/bin/sh\n' >"$MACHINE/root/usr/bin/$p"; chmod +x "$MACHINE/root/usr/bin/$p" ;; esac
	done
	case "$*" in *mosquitto*)
		[ -x "$MACHINE/root/usr/sbin/policy-rc.d" ] || echo "the service starts" >>"$MACHINE/calls"
		printf '#!/bin/sh\n' >"$MACHINE/root/usr/sbin/mosquitto"; chmod +x "$MACHINE/root/usr/sbin/mosquitto" ;;
	*qemu-system-x86*)
		mkdir -p "$MACHINE/root/usr/sbin"
		for p in qemu-system-x86_64 cpio ip mkfs.ext4; do printf '#!/bin/sh\n' >"$MACHINE/root/usr/sbin/$p"; chmod +x "$MACHINE/root/usr/sbin/$p"; done ;;
	esac
	case "$*" in *nginx*)
		[ -x "$MACHINE/root/usr/sbin/policy-rc.d" ] || echo "the service starts" >>"$MACHINE/calls"
		mkdir -p "$MACHINE/root/usr/sbin"; printf '#!/bin/sh\n' >"$MACHINE/root/usr/sbin/nginx"; chmod +x "$MACHINE/root/usr/sbin/nginx" ;;
	esac
	case "$*" in *u-boot-qemu*) mkdir -p "$MACHINE/root/usr/lib/u-boot/qemu-x86_64"; echo >"$MACHINE/root/usr/lib/u-boot/qemu-x86_64/u-boot.rom" ;; esac
	case "$*" in *grub-pc-bin*) mkdir -p "$MACHINE/root/usr/lib/grub/i386-pc"; echo >"$MACHINE/root/usr/lib/grub/i386-pc/boot.img" ;; esac
	;;
esac`

const cacheStub = `[ -e "$MACHINE/no-lists" ] || printf 'linux-image-cloud-amd64\n  Depends: linux-image-9-cloud-amd64\n'`

const unpackStub = `mkdir -p "$3/lib/modules/9/kernel" "$3/boot"; echo kernel >"$3/boot/vmlinuz-9"`

func newMachine(t *testing.T) *machine {
	t.Helper()
	root, err := devstack.Root()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: t.TempDir()}
	m.path = filepath.Join(m.dir, "bin")
	for _, name := range []string{"scripts/setup", "go.mod"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		m.file("clone/"+name, string(data), 0o755)
	}
	for _, tool := range []string{"bash", "sh", "dirname", "mkdir", "mktemp", "rm", "mv", "cp", "chmod", "sed", "grep", "awk", "cut", "tail", "ls", "sort", "sleep", "env", "cat", "flock", "tee"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(m.path, tool)); err != nil {
			t.Fatal(err)
		}
	}
	m.program("go", goStub)
	m.program("apt-get", aptStub)
	m.program("apt-cache", cacheStub)
	m.program("dpkg-deb", unpackStub)
	m.program("gcc", "")
	m.program("id", "echo 0")
	m.file("root/usr/include/stdlib.h", "", 0o644)
	m.file("root/etc/ssl/certs/ca-certificates.crt", "", 0o644)
	return m
}

func (m *machine) file(name, content string, mode os.FileMode) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) program(name, script string) { m.file("bin/"+name, "#!/bin/sh\n"+script+"\n", 0o755) }

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.dir, name)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(m.path, "bash"), append([]string{filepath.Join(m.dir, "clone/scripts/setup")}, args...)...)
	cmd.Env = []string{"PATH=" + m.path, "MACHINE=" + m.dir, "SETUP_PREFIX=" + filepath.Join(m.dir, "root"), "HOME=" + m.dir}
	return cmd
}

// setup runs it and returns the exit code and all that it said.
func (m *machine) setup(args ...string) (int, string) {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

// calls are what the pretended programs were asked since the last time.
func (m *machine) calls() string {
	path := filepath.Join(m.dir, "calls")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	_ = os.Remove(path) // there may have been none
	return string(data)
}

func TestSetupBringsWhatIsMissingOnce(t *testing.T) {
	m := newMachine(t)
	code, out := m.setup()
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	for _, step := range []string{"missing: postgresql postgresql-client grub-common libubootenv-tool rauc dbus-daemon squashfs-tools", "apt-get update", "installing postgresql", "building InfluxDB"} {
		if !strings.Contains(out, step) {
			t.Errorf("it does not say %q: %s", step, out)
		}
	}
	m.calls()
	code, out = m.setup()
	if calls := m.calls(); code != 0 || strings.Contains(calls, "apt-get") || strings.Contains(calls, "go install") {
		t.Errorf("the second time, exit code %d: %s\n%s", code, calls, out)
	}

	// A clone whose pinned version has changed since.
	m.file("clone/.cache/bin/influxd", "#!/bin/sh\n# v1.8.9\n", 0o755)
	if code, out = m.setup(); code != 0 || !strings.Contains(m.calls(), "go install") {
		t.Errorf("another version, exit code %d: %s", code, out)
	}
	// One that does not run, such as a file that was cut short.
	m.file("clone/.cache/bin/influxd", "", 0o755)
	m.file("clone/.cache/bin/influxd", "#!/bin/none\n# v1.8.10\n", 0o755)
	if code, out = m.setup(); code != 0 || !strings.Contains(m.calls(), "go install") {
		t.Errorf("a broken program, exit code %d: %s", code, out)
	}
	m.file("root/usr/lib/postgresql/15/bin/pg_dump", "#!/bin/sh\nexit 127\n", 0o755)
	if code, out = m.setup(); code != 0 || !strings.Contains(m.calls(), "apt-get") {
		t.Errorf("a broken PostgreSQL, exit code %d: %s", code, out)
	}
}

func TestOnlyTheBrokerBenchmarkBringsMosquitto(t *testing.T) {
	m := newMachine(t)
	m.file("root/usr/sbin/some", "", 0o755)
	if code, out := m.setup(); code != 0 || strings.Contains(m.calls(), "mosquitto") {
		t.Errorf("without being asked, exit code %d: %s", code, out)
	}
	code, out := m.setup("bench")
	if calls := m.calls(); code != 0 || !strings.Contains(calls, "mosquitto") || strings.Contains(calls, "the service starts") {
		t.Errorf("exit code %d: %s\n%s", code, calls, out)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "root/usr/sbin/policy-rc.d")); err == nil {
		t.Error("what kept the service from starting is left behind")
	}
	if code, out := m.setup("bench"); code != 0 || strings.Contains(m.calls(), "apt-get") {
		t.Errorf("the second time, exit code %d: %s", code, out)
	}
	m.remove("root/usr/sbin/mosquitto")
	m.file("no-network", "", 0o644)
	if code, out := m.setup("bench"); code != 1 || !strings.Contains(out, "missing: mosquitto") || !strings.Contains(out, "could not be fetched") {
		t.Errorf("no network, exit code %d: %s", code, out)
	}
	if code, out := m.setup("benhc"); code != 2 || !strings.Contains(out, "usage: ") {
		t.Errorf("a misspelt argument, exit code %d: %s", code, out)
	}
}

func TestOnlyDeltasBringWhatTheyAreComparedWith(t *testing.T) {
	m := newMachine(t)
	if code, out := m.setup(); code != 0 || regexp.MustCompile("bsdiff|zchunk").MatchString(m.calls()) {
		t.Errorf("without being asked, exit code %d: %s", code, out)
	}
	m.file("no-network", "", 0o644)
	if code, out := m.setup("deltas"); code != 1 || !strings.Contains(out, "missing: zstd bsdiff xdelta3 casync zchunk xz-utils e2fsprogs") {
		t.Errorf("no network, exit code %d: %s", code, out)
	}
}

func TestOnlyMachinesBringQEMUAndAKernel(t *testing.T) {
	m := newMachine(t)
	m.file("root/usr/sbin/some", "", 0o755)
	if code, out := m.setup(); code != 0 || regexp.MustCompile("qemu|grub-pc|nginx|versitygw").MatchString(m.calls()) {
		t.Errorf("without being asked, exit code %d: %s", code, out)
	}
	m.file("no-network", "", 0o644)
	if code, out := m.setup("machines"); code != 1 || !strings.Contains(out, "missing: qemu-system-x86 cpio iproute2 e2fsprogs nginx grub-pc-bin u-boot-qemu") {
		t.Errorf("no network, exit code %d: %s", code, out)
	}
	m.remove("no-network")
	m.file("no-lists", "", 0o644)
	code, out := m.setup("machines")
	if calls := m.calls(); code != 0 || !strings.Contains(calls, "qemu-system-x86") || !strings.Contains(calls, "download -o APT::Sandbox::User=root linux-image-9-cloud-amd64") {
		t.Errorf("exit code %d: %s\n%s", code, calls, out)
	} else if !strings.Contains(calls, "go install github.com/versity/versitygw/cmd/versitygw@v") || strings.Contains(calls, "the service starts") {
		t.Errorf("the servers of tests: %s", calls)
	}
	if kernel, err := os.ReadFile(filepath.Join(m.dir, "clone/.cache/machine/vmlinuz")); err != nil || string(kernel) != "kernel\n" {
		t.Errorf("the kernel: %q, %v", kernel, err)
	}
	if code, out, calls := setupCalls(m, "machines"); code != 0 || strings.Contains(calls, "apt-get") || strings.Contains(calls, "go install") {
		t.Errorf("the second time, exit code %d: %s", code, out)
	}

	// The packages are there, the lists are old, and then so is the network.
	m.remove("clone/.cache/machine/name")
	m.file("no-lists", "", 0o644)
	if code, out := m.setup("machines"); code != 0 || !strings.Contains(m.calls(), "update") {
		t.Errorf("old lists, exit code %d: %s", code, out)
	}
	m.remove("clone/.cache/machine/name")
	m.file("no-network", "", 0o644)
	if code, out := m.setup("machines"); code != 1 || !strings.Contains(out, "Debian's kernel for virtual machines could not be fetched") || !strings.Contains(out, "could not resolve") {
		t.Errorf("no network for the kernel, exit code %d: %s", code, out)
	}
}

func setupCalls(m *machine, args ...string) (code int, out, calls string) {
	code, out = m.setup(args...)
	return code, out, m.calls()
}

func TestSetupSaysWhatFailedAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name string
		with func(m *machine)
		says []string
	}{
		{"no network for Debian", func(m *machine) { m.file("no-network", "", 0o644) },
			[]string{"lists of packages could not be fetched", "could not resolve", "no network", "run this again"}},
		{"an interrupted installation", func(m *machine) { m.file("broken-dpkg", "", 0o644) },
			[]string{"could not install postgresql", "dpkg was interrupted", "dpkg --configure -a", "apt-get update && apt-get install", "run this again"}},
		{"packages that are not what they should be", func(m *machine) { m.file("lying", "", 0o644) },
			[]string{"reported success, yet PostgreSQL's programs"}},
		{"no right to install", func(m *machine) { m.program("id", "echo 1000") },
			[]string{"you may not install packages", "Have root run, once:", "apt-get install -y --no-install-recommends postgresql postgresql-client", "nothing else needs root"}},
		{"a sudo that wants a password", func(m *machine) { m.program("id", "echo 1000"); m.program("sudo", "exit 1") },
			[]string{"you may not install packages"}},
		{"no Debian", func(m *machine) { m.remove("bin/apt-get") },
			[]string{"this is not Debian", "Install PostgreSQL 15 or newer"}},
		{"no Go", func(m *machine) { m.remove("bin/go") },
			[]string{"no go on the PATH", "Install Go 1.26"}},
		{"no network for modules", func(m *machine) { m.file("no-modules", "", 0o644) },
			[]string{"Go modules could not be fetched", "no such host", "no network", "go1.26.0"}},
		{"no network for InfluxDB", func(m *machine) {
			if code, out := m.setup(); code != 0 {
				m.t.Fatal(out)
			}
			m.remove("clone/.cache/bin/influxd")
			m.file("no-network", "", 0o644)
		}, []string{"InfluxDB v1.8.10 could not be built", "no such host", "no network", "run this again"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.with(m)
			code, out := m.setup()
			if code == 0 || code > 1 {
				t.Errorf("exit code %d", code)
			}
			for _, part := range append(c.says, "setup failed: ") {
				if !strings.Contains(out, part) {
					t.Errorf("it does not say %q", part)
				}
			}
			for _, raw := range []string{"go: downloading", "line ", "unbound"} {
				if strings.Contains(out, raw) {
					t.Errorf("it says %q", raw)
				}
			}
			if _, err := os.Stat(filepath.Join(m.dir, "clone/.cache/bin/influxd")); err == nil {
				t.Error("a build that failed has left its program")
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// TestAnInterruptedSetupLeavesNothingHalfDone interrupts the build after the
// program was written in part.
func TestAnInterruptedSetupLeavesNothingHalfDone(t *testing.T) {
	m := newMachine(t)
	m.file("slow", "", 0o644)
	cmd := m.command()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	devtest.Eventually(t, 0, "the build", func() error {
		data, err := os.ReadFile(filepath.Join(m.dir, "pid"))
		if err != nil {
			return err
		}
		_, err = fmt.Sscan(string(data), &pid)
		return err
	})
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 || time.Since(began) > time.Minute {
		t.Errorf("exit code %d after %v: %s", cmd.ProcessState.ExitCode(), time.Since(began), out.String())
	}
	devtest.Eventually(t, 0, "the build's end", func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) && !zombie(pid) {
			return fmt.Errorf("process %d: %v", pid, err)
		}
		return nil
	})
	left, err := filepath.Glob(filepath.Join(m.dir, "clone/.cache/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if name := filepath.Base(path); name != "bin" && name != "setup.lock" {
			t.Errorf("left behind: %s", name)
		}
	}
	m.remove("slow")
	if code, said := m.setup(); code != 0 {
		t.Errorf("the next run: exit code %d: %s", code, said)
	}
}

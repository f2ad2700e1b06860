// Package netns gives a test a network of its own, with machines in it that are network
// namespaces. Nothing outside is touched: interfaces, names and addresses are gone when
// the test's process is.
package netns

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// inside is set in the process that has a network of its own.
const inside = "GROUNDSWELL_TEST_NETWORK"

// Inside says that this process has a network of its own, in which the test may do what
// it likes. If not, it runs the test again in one, and what comes of that is what comes of
// the test. What the test needs to build or fetch belongs before it: inside there is no
// way out.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		// Where ip keeps names.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		IP(t, "link set lo up")
		return true
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // the child dies with the thread that made it
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	switch err := cmd.Run(); {
	case cmd.Process == nil:
		t.Fatalf("this test needs network namespaces, and may not make them here (as root it needs CAP_SYS_ADMIN, which containers mostly lack; as another user it needs user namespaces): %v", err)
	case err != nil:
		t.Errorf("in a network of its own: %v", err)
	}
	return false
}

// Bridge makes a network that machines are plugged into, where this process has the
// address (with its prefix's length), or none if that is empty.
func Bridge(t testing.TB, name, address string) {
	t.Helper()
	IP(t, "link add name "+name+" type bridge")
	IP(t, "link set "+name+" up")
	if address != "" {
		IP(t, "addr add "+address+" dev "+name)
	}
}

// Machine makes a machine whose eth0 is plugged into a bridge.
func Machine(t testing.TB, name, bridge, address string) {
	t.Helper()
	IP(t, "netns add "+name)
	IP(t, "-n "+name+" link set lo up")
	IP(t, "link add name "+name+" type veth peer name eth0 netns "+name)
	IP(t, "link set "+name+" master "+bridge+" up")
	IP(t, "-n "+name+" addr add "+address+" dev eth0")
	IP(t, "-n "+name+" link set eth0 up")
}

// Command is a program on a machine. It dies with this process.
func Command(ctx context.Context, t testing.TB, machine string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, program(t), append([]string{"netns", "exec", machine}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// IP runs ip(8).
func IP(t testing.TB, args string) {
	t.Helper()
	out, err := exec.Command(program(t), strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// program finds ip, also where only root looks.
func program(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"ip", "/usr/sbin/ip", "/sbin/ip"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("ip is not installed: run scripts/setup machines")
	return ""
}

//go:build long

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"groundswell/internal/devstack/devtest"
)

// insideEnv is set in the process that has a network of its own.
const insideEnv = "GROUNDSWELL_TEST_NETWORK"

// inNetwork says that this process has a network of its own, in which the test
// may do what it likes. If not, it runs the test again in one, and what comes of
// that is what comes of the test. Nothing outside is touched: interfaces, names
// and addresses are gone when that process is.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		setUpNetwork(t)
		return true
	}
	devtest.Binaries(t) // inside there is no way to what a build might fetch
	runtime.LockOSThread()
	defer runtime.UnlockOSThread() // the child dies with the thread that made it
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
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

// Two networks, each a bridge: one that clients and /readyz come by, and one that
// the nodes have for themselves. Addresses are from what is set aside for
// measuring [RFC 2544], and only this process and its children see them.
const (
	clientNet = "198.18.0."
	peerNet   = "198.18.1."
	ownHost   = "254"
)

func setUpNetwork(t *testing.T) {
	t.Helper()
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil { // where ip keeps the names
		t.Fatal(err)
	}
	ip(t, "link set lo up")
	for _, bridge := range []string{"clients", "peers"} {
		ip(t, "link add "+bridge+" type bridge")
		ip(t, "link set "+bridge+" up")
	}
	ip(t, "addr add "+clientNet+ownHost+"/24 dev clients")
}

// addNode makes a namespace with an address in both networks.
func addNode(t *testing.T, n int) {
	t.Helper()
	name := nodeName(n)
	ip(t, "netns add "+name)
	ip(t, "-n "+name+" link set lo up")
	for bridge, prefix := range map[string]string{"clients": clientNet, "peers": peerNet} {
		ip(t, fmt.Sprintf("link add %s-%d type veth peer name %s netns %s", bridge, n, bridge, name))
		ip(t, fmt.Sprintf("link set %s-%d master %s up", bridge, n, bridge))
		ip(t, fmt.Sprintf("-n %s addr add %s%d/24 dev %s", name, prefix, n, bridge))
		ip(t, fmt.Sprintf("-n %s link set %s up", name, bridge))
	}
}

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// plug connects a node with the others, or takes it off: packets are lost, and
// nobody is told.
func plug(t *testing.T, n int, in bool) {
	t.Helper()
	state := map[bool]string{true: "up", false: "down"}[in]
	ip(t, fmt.Sprintf("link set peers-%d %s", n, state))
}

func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command(ipProgram(t), strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// ipProgram finds ip, also where only root looks.
func ipProgram(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"ip", "/usr/sbin/ip", "/sbin/ip"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("ip is not installed: run scripts/setup machines")
	return ""
}

package qemu

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"groundswell/internal/devstack"
)

const (
	// HostAddr is the host's loopback, seen from inside.
	HostAddr = "10.0.2.2"
	// GuestAddr is the machine's own address; every machine has the same. Mask is that
	// of its network.
	GuestAddr, Mask = "10.0.2.15", "255.255.255.0"
)

// ErrSetup is wrapped when something is missing on this machine.
var ErrSetup = errors.New("not installed: run scripts/setup machines")

// Tool finds a program, also where only root looks.
func Tool(name string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w", name, ErrSetup)
}

// Run runs a command; its error holds what the command said.
func Run(cmd *exec.Cmd) error {
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}

// Options are about the machine itself.
type Options struct {
	MemoryBytes int64
	// Disk is a file of the host; Drive is added to what QEMU is told about it, for
	// instance "throttling.bps-write=1000000".
	Disk, Drive string
	// Emulate: without KVM, for what is shown on one kind of processor only.
	Emulate bool
	// Ports maps addresses of the host's loopback (host:port) to ports of the machine.
	Ports map[string]int
}

// Command is the path of QEMU and its arguments for a machine with one disk, one
// network, and its console on the standard output.
func Command(o Options) (path string, args []string, err error) {
	if path, err = Tool("qemu-system-x86_64"); err != nil {
		return "", nil, err
	}
	drive := "if=virtio,format=raw,cache=writeback,file=" + o.Disk
	if o.Drive != "" {
		drive += "," + o.Drive
	}
	network := "user,id=net"
	for _, host := range slices.Sorted(maps.Keys(o.Ports)) {
		network += fmt.Sprintf(",hostfwd=tcp:%s-:%d", host, o.Ports[host])
	}
	processor := []string{"-accel", "tcg", "-cpu", "max"}
	if !o.Emulate {
		processor = accelerator()
	}
	return path, append(processor,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-m", fmt.Sprint(o.MemoryBytes>>20), "-drive", drive,
		"-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
	), nil
}

// accelerator says how the processor is made. /dev/kvm alone means little: there
// are machines that have it and whose processor has no use for it.
func accelerator() []string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && slices.ContainsFunc(strings.Fields(string(info)), func(flag string) bool { return flag == "vmx" || flag == "svm" }) {
		if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
			_ = kvm.Close() // it was a question
			return []string{"-accel", "kvm", "-cpu", "host"}
		}
	}
	return []string{"-accel", "tcg", "-cpu", "max"}
}

// Kernel is Debian's kernel for virtual machines.
type Kernel struct {
	// Image is the file that is booted. Modules are files that it lacks for a virtio
	// disk and network, in the order in which they are to be loaded.
	Image   string
	Modules []string
}

// FindKernel finds the one that scripts/setup has brought.
func FindKernel() (Kernel, error) {
	root, err := devstack.Root()
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(root, ".cache", "machine")
	k := Kernel{Image: filepath.Join(dir, "vmlinuz")}
	if _, err := os.Stat(k.Image); err != nil {
		return Kernel{}, fmt.Errorf("the machines' kernel (.cache/machine/vmlinuz) is %w", ErrSetup)
	}
	for _, name := range []string{
		"drivers/virtio/virtio_ring.ko",
		"drivers/virtio/virtio.ko",
		"drivers/virtio/virtio_pci_legacy_dev.ko",
		"drivers/virtio/virtio_pci_modern_dev.ko",
		"drivers/virtio/virtio_pci.ko",
		"drivers/block/virtio_blk.ko",
		"net/core/failover.ko",
		"drivers/net/net_failover.ko",
		"drivers/net/virtio_net.ko",
	} {
		k.Modules = append(k.Modules, filepath.Join(dir, "modules", name))
	}
	return k, nil
}

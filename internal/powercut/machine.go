package powercut

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	// GuestAddr is the machine's own address; every machine has the same.
	GuestAddr = "10.0.2.15"
	// DataDir is where the disk is mounted, and FilesDir where Machine.Files are.
	DataDir, FilesDir = "/data", "/files"
)

// ErrSetup is wrapped when something is missing on this machine.
var ErrSetup = errors.New("not installed: run scripts/setup machines")

// Machine says what to run.
type Machine struct {
	// Name is for messages, and names the machine's files in Dir.
	Name string
	// Dir is a directory of the host for disk, initramfs and log.
	Dir string
	// Program is a static executable, run with Args by the machine's init. When it
	// ends, so does the machine.
	Program string
	Args    []string
	// Files are put into FilesDir, by name.
	Files map[string][]byte
	// Ports maps addresses of the host's loopback (host:port) to ports of the
	// machine.
	Ports map[string]int
	// DiskBytes is the size of the disk (the file is sparse), MemoryBytes that of
	// the memory. Zero: 1 GiB, 512 MiB.
	DiskBytes, MemoryBytes int64
}

// Make makes disk and initramfs and returns how to start the machine: a process
// that does not end by itself, and whose SIGKILL is the power cut. Started again,
// it has the same disk. Its log is the machine's console.
func (m Machine) Make(ctx context.Context) (devstack.Spec, error) {
	if m.DiskBytes == 0 {
		m.DiskBytes = 1 << 30
	}
	if m.MemoryBytes == 0 {
		m.MemoryBytes = 512 << 20
	}
	qemu, err := tool("qemu-system-x86_64")
	if err != nil {
		return devstack.Spec{}, err
	}
	root, err := devstack.Root()
	if err != nil {
		return devstack.Spec{}, err
	}
	kernel := filepath.Join(root, ".cache", "machine")
	if _, err := os.Stat(filepath.Join(kernel, "vmlinuz")); err != nil {
		return devstack.Spec{}, fmt.Errorf("the machines' kernel (.cache/machine/vmlinuz) is %w", ErrSetup)
	}
	if err := m.makeDisk(ctx); err != nil {
		return devstack.Spec{}, fmt.Errorf("machine %s: disk: %w", m.Name, err)
	}
	if err := m.makeInitramfs(ctx, filepath.Join(kernel, "modules")); err != nil {
		return devstack.Spec{}, fmt.Errorf("machine %s: initramfs: %w", m.Name, err)
	}
	network := "user,id=net"
	for host, port := range m.Ports {
		network += fmt.Sprintf(",hostfwd=tcp:%s-:%d", host, port)
	}
	return devstack.Spec{
		Name: m.Name, Path: qemu, LogFile: m.path("console"),
		Args: append(accelerator(),
			"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
			"-m", fmt.Sprint(m.MemoryBytes>>20),
			"-kernel", filepath.Join(kernel, "vmlinuz"), "-initrd", m.path("initramfs"),
			"-append", "console=ttyS0 quiet panic=-1",
			"-drive", "if=virtio,format=raw,cache=writeback,file="+m.path("disk"),
			"-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=",
		),
	}, nil
}

func (m Machine) path(what string) string { return filepath.Join(m.Dir, m.Name+"."+what) }

// makeDisk makes the disk anew: empty, with a file system.
func (m Machine) makeDisk(ctx context.Context) error {
	mkfs, err := tool("mkfs.ext4")
	if err != nil {
		return err
	}
	if err := os.Remove(m.path("disk")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	disk, err := os.Create(m.path("disk"))
	if err != nil {
		return err
	}
	if err := errors.Join(disk.Truncate(m.DiskBytes), disk.Close()); err != nil {
		return err
	}
	return run(exec.CommandContext(ctx, mkfs, "-q", "-F", m.path("disk")))
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

// tool finds a program, also where only root looks.
func tool(name string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w", name, ErrSetup)
}

func run(cmd *exec.Cmd) error {
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, text)
	}
	return nil
}

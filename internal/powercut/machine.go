package powercut

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"groundswell/internal/devstack"
	"groundswell/internal/qemu"
)

// DataDir is where the disk is mounted, and FilesDir where Machine.Files are.
const DataDir, FilesDir = "/data", "/files"

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
	path, args, err := qemu.Command(qemu.Options{MemoryBytes: m.MemoryBytes, Disk: m.path("disk"), Ports: m.Ports})
	if err != nil {
		return devstack.Spec{}, err
	}
	kernel, err := qemu.FindKernel()
	if err != nil {
		return devstack.Spec{}, err
	}
	if err := m.makeDisk(ctx); err != nil {
		return devstack.Spec{}, fmt.Errorf("machine %s: disk: %w", m.Name, err)
	}
	if err := m.makeInitramfs(ctx, kernel); err != nil {
		return devstack.Spec{}, fmt.Errorf("machine %s: initramfs: %w", m.Name, err)
	}
	return devstack.Spec{
		Name: m.Name, Path: path, LogFile: m.path("console"),
		Args: append(args, "-no-reboot", "-kernel", kernel.Image, "-initrd", m.path("initramfs"), "-append", "console=ttyS0 quiet panic=-1"),
	}, nil
}

func (m Machine) path(what string) string { return filepath.Join(m.Dir, m.Name+"."+what) }

// makeDisk makes the disk anew: empty, with a file system.
func (m Machine) makeDisk(ctx context.Context) error {
	mkfs, err := qemu.Tool("mkfs.ext4")
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
	return qemu.Run(exec.CommandContext(ctx, mkfs, "-q", "-F", m.path("disk")))
}

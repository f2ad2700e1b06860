package boottest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"groundswell/agent/boot"
	"groundswell/internal/qemu"
)

const (
	sector = 512
	mib    = 1 << 20
)

// The partitions, in their order on the disk, which begins with a MiB for GRUB.
const (
	bootBytes = 16 * mib
	slotBytes = 96 * mib
	dataBytes = 192 * mib

	bootStart = mib
	slotA     = bootStart + bootBytes
	slotB     = slotA + slotBytes
	dataStart = slotB + slotBytes
	diskBytes = dataStart + dataBytes
)

// The partitions as the machine's kernel sees them.
const (
	BootDevice = "/dev/vda1"
	DeviceA    = "/dev/vda2"
	DeviceB    = "/dev/vda3"
	DataDevice = "/dev/vda4"
)

// DataDir is where the data partition is mounted.
const DataDir = "/data"

// grubConfig is what a device's maker writes; docs/boot.md shows the same.
const grubConfig = `
serial --unit=0 --speed=115200
terminal_output serial
source ${prefix}/groundswell.cfg
menuentry "A" {
	linux (hd0,msdos2)/vmlinuz groundswell.slot=a console=ttyS0 quiet panic=1
	initrd (hd0,msdos2)/initrd.img
}
menuentry "B" {
	linux (hd0,msdos3)/vmlinuz groundswell.slot=b console=ttyS0 quiet panic=1
	initrd (hd0,msdos3)/initrd.img
}
`

// grubModules are what that takes.
var grubModules = []string{"biosdisk", "part_msdos", "ext2", "normal", "linux", "loadenv", "test", "echo", "configfile", "serial", "terminal"}

// grubDir is where Debian keeps GRUB for a PC's BIOS.
const grubDir = "/usr/lib/grub/i386-pc"

// makeDisk makes the disk that a device leaves the factory with: a system in slot A,
// nothing in slot B, and on the data partition what is in the directory data.
func makeDisk(ctx context.Context, path, system, data string) error {
	disk, err := os.Create(path)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := disk.Truncate(diskBytes); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "disk-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // it lies in a directory of the test's
	for _, write := range []func() error{
		func() error { return writeGRUB(ctx, disk, dir) },
		func() error {
			return writeBoot(ctx, disk, dir, map[string]string{"grub.cfg": grubConfig, "groundswell.cfg": boot.ScriptGRUB})
		},
		func() error { return place(disk, slotA, system) },
		func() error { return placeFS(ctx, disk, dataStart, dataBytes, data, filepath.Join(dir, "data.img")) },
		disk.Close,
	} {
		if err := write(); err != nil {
			return fmt.Errorf("disk %s: %w", path, err)
		}
	}
	return nil
}

// writeGRUB writes the table of partitions, and what comes before the first of them.
func writeGRUB(ctx context.Context, disk *os.File, dir string, modules ...string) error {
	core := filepath.Join(dir, "core.img")
	mkimage, err := qemu.Tool("grub-mkimage")
	if err != nil {
		return err
	}
	args := append([]string{"-O", "i386-pc", "-d", grubDir, "-p", "(hd0,msdos1)/grub", "-o", core}, append(modules, grubModules...)...)
	if err := qemu.Run(exec.CommandContext(ctx, mkimage, args...)); err != nil {
		return err
	}
	first, err := os.ReadFile(filepath.Join(grubDir, "boot.img"))
	if err != nil || len(first) != sector {
		return fmt.Errorf("GRUB's boot.img is %w (%v)", qemu.ErrSetup, err)
	}
	const table = 446
	clear(first[table-6:]) // the disk's own number, and four entries of 16 bytes
	for i, p := range []struct{ start, length uint32 }{{bootStart, bootBytes}, {slotA, slotBytes}, {slotB, slotBytes}, {dataStart, dataBytes}} {
		entry := first[table+16*i:][:16]
		entry[4] = 0x83 // Linux
		binary.LittleEndian.PutUint32(entry[8:], p.start/sector)
		binary.LittleEndian.PutUint32(entry[12:], p.length/sector)
	}
	first[510], first[511] = 0x55, 0xaa
	if _, err := disk.WriteAt(first, 0); err != nil {
		return err
	}
	if info, err := os.Stat(core); err != nil || info.Size() > bootStart-sector {
		return fmt.Errorf("GRUB's core does not fit before the first partition (%v)", err)
	}
	return place(disk, sector, core) // where grub-mkimage expects it to be
}

// writeBoot writes the partition that GRUB reads: files in its directory, and an
// environment block of variables, each name=value.
func writeBoot(ctx context.Context, disk *os.File, dir string, files map[string]string, variables ...string) error {
	tree := filepath.Join(dir, "boot")
	for name, content := range files {
		if err := writeFile(filepath.Join(tree, "grub", name), content); err != nil {
			return err
		}
	}
	editenv, err := qemu.Tool("grub-editenv")
	if err != nil {
		return err
	}
	block := filepath.Join(tree, "grub/grubenv")
	for _, args := range [][]string{{block, "create"}, append([]string{block, "set"}, variables...)} {
		if err := qemu.Run(exec.CommandContext(ctx, editenv, args...)); err != nil {
			return err
		}
	}
	return placeFS(ctx, disk, bootStart, bootBytes, tree, tree+".img")
}

// placeFS makes a file system of what is below tree in the file image, and copies it.
func placeFS(ctx context.Context, disk *os.File, at, size int64, tree, image string) error {
	if err := makeFS(ctx, image, tree, size); err != nil {
		return err
	}
	return place(disk, at, image)
}

// place copies a file to where it belongs on the disk, but for the holes.
func place(disk *os.File, at int64, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	buf := make([]byte, 1<<16)
	for {
		n, err := io.ReadFull(in, buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			if _, err := disk.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

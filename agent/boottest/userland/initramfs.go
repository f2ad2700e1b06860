package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"groundswell/agent/boot"
	"groundswell/agent/boottest"
	"groundswell/internal/qemu/inside"

	"golang.org/x/sys/unix"
)

// initramfs ends in the init of the slot's system.
func initramfs() error {
	modules, err := filepath.Glob("/modules/*.ko") // sorted
	if err != nil {
		return err
	}
	if err := inside.Load(modules); err != nil {
		return err
	}
	if err := inside.Kernel(); err != nil {
		return err
	}
	slot, err := boot.RunningSlot("/proc/cmdline")
	if err != nil {
		return err
	}
	device, ok := map[string]string{"a": boottest.DeviceA, "b": boottest.DeviceB}[slot]
	if !ok {
		return fmt.Errorf("there is no slot %q", slot)
	}
	const root = "/root"
	if err := inside.Mount(device, root, "ext4", unix.MS_RDONLY); err != nil {
		return err
	}
	version, err := os.ReadFile(root + boottest.VersionFile)
	if err != nil {
		return err
	}
	fmt.Printf("userland: slot %s, version %s\n", slot, strings.TrimSpace(string(version)))
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp"} {
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return fmt.Errorf("/sbin/init: %w", syscall.Exec("/sbin/init", []string{"/sbin/init"}, nil))
}

// Package inside is what the init of a machine in QEMU does before anything else can
// run there.
package inside

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"groundswell/internal/qemu"

	"golang.org/x/sys/unix"
)

// Load loads modules into the kernel, in that order.
func Load(modules []string) error {
	for _, path := range modules {
		if err := load(path); err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// Kernel mounts what the kernel tells about itself, and a directory for files that
// nobody needs tomorrow.
func Kernel() error {
	return errors.Join(Mount("proc", "/proc", "proc", 0), Mount("sysfs", "/sys", "sysfs", 0),
		Mount("devtmpfs", "/dev", "devtmpfs", 0), Mount("tmpfs", "/tmp", "tmpfs", 0))
}

// Mount waits for a device to appear; the drivers look for theirs by themselves.
func Mount(source, target, kind string, flags uintptr) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Mount(source, target, kind, flags, "")
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) || time.Now().After(deadline) {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
}

// Network gives the machine its addresses.
func Network() error {
	for name, address := range map[string][2]string{"lo": {"127.0.0.1", "255.0.0.0"}, "eth0": {qemu.GuestAddr, qemu.Mask}} {
		if err := up(name, address[0], address[1]); err != nil {
			return fmt.Errorf("network %s: %w", name, err)
		}
	}
	return nil
}

// up gives an interface its address and switches it on.
func up(name, address, mask string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		request uint
		text    string
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, mask}} {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(net.ParseIP(set.text).To4()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.request, r); err != nil {
			return err
		}
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// Command guest is the init of a machine that is made to lose its power (see
// internal/powercut): it loads what the kernel lacks, mounts the disk, brings the
// network up, and runs the one program, whose output goes to the console. It
// never ends in an orderly way: when the program does, the machine is switched
// off without a word to the disk.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"groundswell/internal/powercut"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the init of a machine, and nothing else")
		os.Exit(1)
	}
	fmt.Println("guest:", run())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // if that fails, so does init, and the kernel panics
}

func run() error {
	text, err := os.ReadFile(powercut.PlanFile)
	if err != nil {
		return err
	}
	var plan powercut.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	for _, path := range plan.Modules {
		if err := load(path); err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
	}
	for _, m := range []struct{ source, target, kind string }{
		{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/tmp", "tmpfs"},
		{plan.Disk, plan.DataDir, "ext4"},
	} {
		if err := mount(m.source, m.target, m.kind); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for name, address := range map[string][2]string{"lo": {"127.0.0.1", "255.0.0.0"}, "eth0": {plan.Address, plan.Mask}} {
		if err := up(name, address[0], address[1]); err != nil {
			return fmt.Errorf("network %s: %w", name, err)
		}
	}
	cmd := exec.Command(plan.Command[0], plan.Command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return fmt.Errorf("the program has ended: %v", cmd.Run())
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

// mount waits for a device to appear; the drivers look for theirs by themselves.
func mount(source, target, kind string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Mount(source, target, kind, 0, "")
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) || time.Now().After(deadline) {
			return err
		}
	}
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

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"groundswell/agent/boot"
	"groundswell/agent/machine"
	"groundswell/topics"
)

// Machine says that the component is the whole system, in two partitions, and how it
// is booted. See package machine.
type Machine struct {
	// Bootloader is "grub" or "u-boot". Empty: the component is a process (Firmware).
	Bootloader string `yaml:"bootloader"`
	// A and B are the partitions, for instance /dev/disk/by-partlabel/root-a.
	A string `yaml:"a"`
	B string `yaml:"b"`
	// GRUBEnv is GRUB's environment block. Default /boot/grub/grubenv.
	GRUBEnv string `yaml:"grub_env"`
	// FWEnvConfig says where U-Boot's environment lies. Default: what fw_printenv
	// takes by itself, /etc/fw_env.config.
	FWEnvConfig string `yaml:"fw_env_config"`
	// VersionFile is a file of the system that holds its version, and nothing else.
	// Empty: what was written is what runs.
	VersionFile string `yaml:"version_file"`
	// Addr is where the system answers, for health.url's {addr}.
	Addr string `yaml:"addr"`
	// Tries is how often a new version is booted on trial. Default 3, at most 5.
	Tries int `yaml:"tries"`
	// Restart boots the machine. Default: systemctl reboot.
	Restart []string `yaml:"restart"`
}

// The names of bootloaders.
const (
	bootGRUB  = "grub"
	bootUBoot = "u-boot"
)

func (m *Machine) validate() error {
	if m.Bootloader == "" {
		if m.A != "" || m.B != "" {
			return errors.New("machine.bootloader: is missing")
		}
		return nil
	}
	if m.Bootloader != bootGRUB && m.Bootloader != bootUBoot {
		return fmt.Errorf("machine.bootloader: %q is neither %s nor %s", m.Bootloader, bootGRUB, bootUBoot)
	}
	for _, p := range []struct{ key, path string }{{"machine.a", m.A}, {"machine.b", m.B}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s: must be the absolute path of a partition", p.key)
		}
	}
	if m.A == m.B {
		return errors.New("machine.b: is the same as machine.a")
	}
	if m.Tries < 1 || m.Tries > boot.MaxTries {
		return fmt.Errorf("machine.tries: must be from 1 to %d", boot.MaxTries)
	}
	if len(m.Restart) == 0 {
		return errors.New("machine.restart: is missing")
	}
	return nil
}

// openMachine opens the slots of a whole system.
func openMachine(ctx context.Context, dir string, m Machine, log *slog.Logger) (*machine.Machine, error) {
	var chain boot.Chain = boot.GRUB{Path: m.GRUBEnv}
	if m.Bootloader == bootUBoot {
		chain = boot.UBoot{Config: m.FWEnvConfig}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	running, err := boot.RunningSlot("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	return machine.Open(ctx, machine.Config{
		Partitions: map[string]string{"a": m.A, "b": m.B}, Dir: dir,
		Chain: chain, Running: running, BootID: strings.TrimSpace(string(id)), Addr: m.Addr, Tries: m.Tries,
		Version: func() string { return versionIn(m.VersionFile) },
		Restart: func(ctx context.Context) error { return restart(ctx, m.Restart) },
		Log:     log,
	})
}

// versionIn is what a file says, "" if it says nothing that could be a version.
func versionIn(path string) string {
	if path == "" {
		return ""
	}
	data, err := os.ReadFile(path)
	if err != nil || len(data) > 256 {
		return ""
	}
	version := strings.TrimSpace(string(data))
	if topics.CheckVersion("version", version) != nil {
		return ""
	}
	return version
}

// restartTime bounds how long the command that boots the machine may take to say that
// it will.
const restartTime = time.Minute

func restart(ctx context.Context, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.300s", command[0], err, out)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"groundswell/agent/boot"
	"groundswell/agent/rauc"
)

// RAUC says that the component is the whole system, and that RAUC installs it. What the
// bootloader is, where the slots are and how often one is tried is in RAUC's system.conf.
// See package rauc.
type RAUC struct {
	// Enabled: it is so.
	Enabled bool `yaml:"enabled"`
	// Bus is the D-Bus address at which RAUC's service is. Default: the system's bus.
	Bus string `yaml:"bus"`
	// VersionFile is a file of the system that holds its version, and nothing else.
	// Empty: what RAUC has installed is what runs.
	VersionFile string `yaml:"version_file"`
	// Addr is where the system answers, for health.url's {addr}.
	Addr string `yaml:"addr"`
	// CallTime is how long RAUC may take to answer, InstallTime how long to install.
	// Default 1 min, 1 h.
	CallTime    time.Duration `yaml:"call_time"`
	InstallTime time.Duration `yaml:"install_time"`
	// Restart boots the machine. Default: systemctl reboot.
	Restart []string `yaml:"restart"`
}

func (r *RAUC) validate() error {
	if !r.Enabled {
		if r.Bus != "" || r.VersionFile != "" || r.Addr != "" {
			return errors.New("rauc.enabled: must be true for the rest to mean something")
		}
		return nil
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"call_time", r.CallTime}, {"install_time", r.InstallTime}} {
		if d.value <= 0 {
			return fmt.Errorf("rauc.%s: must be above 0", d.key)
		}
	}
	if r.InstallTime < r.CallTime {
		return errors.New("rauc.install_time: must not be below rauc.call_time")
	}
	if len(r.Restart) == 0 {
		return errors.New("rauc.restart: is missing")
	}
	return nil
}

// openRAUC opens the slots of a whole system that RAUC installs; dir is the agent's
// own.
func openRAUC(dir string, r RAUC, log *slog.Logger) (*rauc.Slots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	running, err := boot.Parameter("/proc/cmdline", "rauc.slot=")
	if err != nil {
		return nil, err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	return rauc.Open(rauc.Config{
		Dir: dir, Bus: r.Bus, Running: running, BootID: strings.TrimSpace(string(id)), Addr: r.Addr,
		Version:  func() string { return versionIn(r.VersionFile) },
		CallTime: r.CallTime, InstallTime: r.InstallTime,
		Restart: func(ctx context.Context) error { return restart(ctx, r.Restart) },
		Log:     log,
	})
}

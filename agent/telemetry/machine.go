package telemetry

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"groundswell/topics"
)

// Version is the agent's own version, as heartbeats tell it. The linker sets it:
// -X groundswell/agent/telemetry.Version=1.2.0.
var Version = "0.1.0"

// Machine reads the machine's figures.
type Machine struct {
	// Root is where /proc and /sys are found; empty means "/".
	Root string
	// Disk is the directory whose free space counts: where artifacts are staged.
	Disk string
}

// Fill adds to a heartbeat what can be read.
func (m Machine) Fill(h *topics.Heartbeat) {
	h.Agent = Version
	if text, ok := m.read("proc/uptime"); ok {
		first, _, _ := strings.Cut(text, " ")
		if seconds, err := strconv.ParseFloat(first, 64); err == nil && seconds >= 0 {
			h.UptimeSeconds = int64(seconds)
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(m.Disk, &fs); err == nil {
		free := int64(fs.Bavail) * int64(fs.Bsize)
		h.DiskFreeBytes = &free
	}
	m.battery(h)
}

// battery reads the first battery of the machine, if any.
func (m Machine) battery(h *topics.Heartbeat) {
	supplies, _ := filepath.Glob(filepath.Join(m.root(), "sys/class/power_supply/*/capacity")) // the pattern is right
	for _, path := range supplies {
		dir, err := filepath.Rel(m.root(), filepath.Dir(path))
		if err != nil {
			continue
		}
		text, _ := m.read(dir + "/capacity")
		percent, err := strconv.ParseInt(text, 10, 64)
		if err != nil || percent < 0 || percent > 100 {
			continue
		}
		h.BatteryPercent = &percent
		status, _ := m.read(dir + "/status")
		h.Charging = status == "Charging" || status == "Full"
		return
	}
}

func (m Machine) root() string {
	if m.Root == "" {
		return "/"
	}
	return m.Root
}

func (m Machine) read(name string) (string, bool) {
	data, err := os.ReadFile(filepath.Join(m.root(), name))
	return strings.TrimSpace(string(data)), err == nil && len(data) < 4096
}

package telemetry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/topics"
)

func TestTailKeepsTheEndFromALinesBeginning(t *testing.T) {
	tail := NewTail(1000)
	for i := range 500 {
		fmt.Fprintf(tail, "line %d\n", i)
	}
	got := tail.String()
	if len(got) > 1000 || !strings.HasPrefix(got, "line ") || !strings.HasSuffix(got, "line 499\n") {
		t.Fatalf("%d bytes, from %.20q", len(got), got)
	}
}

func TestFiguresThatCannotBeReadAreLeftOut(t *testing.T) {
	write := func(root, name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	var h topics.Heartbeat
	Machine{Root: root, Disk: filepath.Join(root, "none")}.Fill(&h)
	if h.BatteryPercent != nil || h.DiskFreeBytes != nil || h.UptimeSeconds != 0 || h.Agent != Version {
		t.Fatalf("bare machine: %+v", h)
	}
	write(root, "proc/uptime", "12.34 5.6\n")
	write(root, "sys/class/power_supply/AC/online", "1\n")
	write(root, "sys/class/power_supply/BAT0/capacity", "87\n")
	write(root, "sys/class/power_supply/BAT0/status", "Charging\n")
	Machine{Root: root, Disk: root}.Fill(&h)
	if h.UptimeSeconds != 12 || h.BatteryPercent == nil || *h.BatteryPercent != 87 || !h.Charging || h.DiskFreeBytes == nil {
		t.Fatalf("got %+v", h)
	}
}

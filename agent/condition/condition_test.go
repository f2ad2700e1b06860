package condition

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holds wants that nothing keeps the device from a phase.
func holds(t *testing.T, c Config, phase Phase) {
	t.Helper()
	if hold := c.Look(t.Context(), phase); hold != nil {
		t.Errorf("%+v before %s: %+v", c, phase, hold)
	}
}

// waits wants that something does.
func waits(t *testing.T, c Config, phase Phase, reason, detail string, again time.Duration) {
	t.Helper()
	hold := c.Look(t.Context(), phase)
	if hold == nil || hold.Reason != reason || !strings.Contains(hold.Detail, detail) || hold.Again != again {
		t.Errorf("%+v before %s: got %+v, want %s: %s, again after %v", c, phase, hold, reason, detail, again)
	}
}

// TestWhoHoldsTheLockPostpones: and nobody after that.
func TestWhoHoldsTheLockPostpones(t *testing.T) {
	c := Config{Lock: filepath.Join(t.TempDir(), "busy")}
	holds(t, c, Install) // nobody has made it
	release, hold := c.Seize()
	if hold != nil {
		t.Fatalf("%+v", hold)
	}
	waits(t, c, Install, ReasonLock, "holds "+c.Lock, DefaultAgain) // the agent itself
	release()
	for range 2 {
		file, err := os.Create(c.Lock)
		if err != nil {
			t.Fatal(err)
		}
		holds(t, c, Install) // nobody holds it
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH); err != nil {
			t.Fatal(err)
		}
		waits(t, c, Install, ReasonLock, "holds "+c.Lock, DefaultAgain)
		if release, hold := c.Seize(); release != nil || hold == nil || hold.Reason != ReasonLock {
			t.Errorf("seized: %+v", hold)
		}
		holds(t, c, Download)
		if err := file.Close(); err != nil { // as when the application dies
			t.Fatal(err)
		}
		holds(t, c, Install)
	}
	c.Lock = filepath.Join(c.Lock, "x") // not a directory: it cannot be found out
	waits(t, c, Install, ReasonLock, "not a directory", DefaultAgain)
}

// supply is a power supply as the kernel shows it.
func supply(t *testing.T, dir, name string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name, file), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheBatteryHoldsEnough(t *testing.T) {
	dir := t.TempDir()
	with := func(percent int, external string) Config {
		return Config{Battery: Battery{MinPercent: percent, External: external, Dir: dir}, Again: time.Minute}
	}
	holds(t, with(100, ExternalNeeded), Install) // there is no battery
	nowhere := with(1, "")
	nowhere.Battery.Dir = filepath.Join(dir, "none")
	waits(t, nowhere, Install, ReasonBattery, "no such file", time.Minute)
	supply(t, dir, "BAT0", map[string]string{"type": "Battery", "capacity": "40"})
	supply(t, dir, "AC", map[string]string{"type": "Mains", "online": "0"})
	supply(t, dir, "mouse", map[string]string{"type": "Battery", "scope": "Device", "capacity": "1"})
	holds(t, with(40, ""), Install)
	waits(t, with(41, ""), Install, ReasonBattery, "40 %, at least 41 %", time.Minute)
	holds(t, with(41, ""), Download)
	waits(t, with(41, ExternalEnough), Install, ReasonBattery, "40 %", time.Minute)
	waits(t, with(0, ExternalNeeded), Install, ReasonBattery, "no external power", time.Minute)
	supply(t, dir, "AC", map[string]string{"online": "1"})
	holds(t, with(41, ExternalEnough), Install)
	holds(t, with(40, ExternalNeeded), Install)
	waits(t, with(41, ExternalNeeded), Install, ReasonBattery, "40 %, at least", time.Minute)
	supply(t, dir, "BAT1", map[string]string{"type": "Battery", "capacity": "5"})
	waits(t, with(6, ""), Install, ReasonBattery, "5 %", time.Minute)
	supply(t, dir, "BAT1", map[string]string{"capacity": "unknown"})
	waits(t, with(1, ""), Install, ReasonBattery, "BAT1 does not say", time.Minute)
	holds(t, with(0, ""), Install)
	supply(t, dir, "BAT1", map[string]string{"type": ""})
	waits(t, with(1, ""), Install, ReasonBattery, "BAT1 does not say", time.Minute)
}

// TestAPlaceForABatteryIsNone: a gauge without a cell holds nobody up, whatever it says.
func TestAPlaceForABatteryIsNone(t *testing.T) {
	dir := t.TempDir()
	with := func(percent int, external string) Config {
		return Config{Battery: Battery{MinPercent: percent, External: external, Dir: dir}, Again: time.Minute}
	}
	for _, gauge := range []map[string]string{
		{"type": "Battery", "present": "0"},
		{"capacity": "0", "status": "Unknown"},
		{"capacity": "unknown"},
	} {
		supply(t, dir, "gauge", gauge)
		holds(t, with(40, ""), Install)
		holds(t, with(40, ExternalEnough), Install)
		holds(t, with(40, ExternalNeeded), Install)
	}
	supply(t, dir, "BAT1", map[string]string{"type": "Battery", "present": "1", "capacity": "30"})
	waits(t, with(40, ""), Install, ReasonBattery, "30 %, at least 40 %", time.Minute) // beside one that is there
	supply(t, dir, "BAT1", map[string]string{"capacity": "50"})
	holds(t, with(40, ""), Install)
	supply(t, dir, "gauge", map[string]string{"present": "1"}) // it was put in
	waits(t, with(40, ""), Install, ReasonBattery, "gauge does not say", time.Minute)
}

func TestFactsAreFoundOutByCommands(t *testing.T) {
	dir := t.TempDir()
	command := func(name, script string) []string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return []string{path, "x"}
	}
	t.Setenv("SECRET", "of the agent")
	yes := Fact{Name: "yes", Command: command("yes", `[ "$1" = x ] && [ -z "$SECRET" ]`), Before: "download"}
	no := Fact{Name: "consent", Command: command("no", "echo the owner is asked; echo more; exit 21"), Again: time.Hour}
	broken := Fact{Name: "temperature", Command: command("broken", "echo hot; exit 3"), Before: "download"}
	missing := Fact{Name: "x", Command: []string{"/none"}}
	holds(t, Config{Facts: []Fact{yes}}, Install)
	holds(t, Config{Facts: []Fact{yes, no}}, Download)
	waits(t, Config{Facts: []Fact{yes, no, broken}}, Install, "fact-consent", "the owner is asked", time.Hour)
	waits(t, Config{Facts: []Fact{yes, no, broken}}, Download, "fact-temperature", "broken: exit status 3", defaultFact)
	waits(t, Config{Facts: []Fact{missing}}, Install, "fact-x", "none: ", defaultFact)
	if detail, _ := no.Ask(t.Context()); detail != "the owner is asked" {
		t.Errorf("%q", detail)
	}
}

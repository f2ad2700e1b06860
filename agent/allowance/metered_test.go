package allowance

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/condition"
	"groundswell/topics"
)

// metered is a configuration whose link the test chooses.
func metered(t *testing.T, then string, budget int64) (cfg Config, link func(script string)) {
	t.Helper()
	dir := t.TempDir()
	command, script := filepath.Join(dir, "unmetered"), filepath.Join(dir, "script")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n. "+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	link = func(text string) {
		if err := os.WriteFile(script, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{Metered: Metered{Unmetered: []string{command}, Then: then, DailyBudget: budget}}, link
}

const (
	cellular = "echo it is LTE; exit 21"
	ethernet = "exit 0"
)

func TestDownloadsWaitForALinkThatCostsNothing(t *testing.T) {
	cfg, link := metered(t, "", 0)
	d := newDevice(t, cfg)
	for name, script := range map[string]string{"metered": cellular, "an error": "exit 1"} {
		link(script)
		d.pass(time.Minute)
		hold := d.Look(t.Context(), nil)
		if hold == nil || hold.Reason != ReasonMetered || hold.Again != time.Minute {
			t.Fatalf("%s: %+v", name, hold)
		}
		if script == cellular && hold.Detail != "it is LTE" {
			t.Errorf("%+v", hold)
		}
		d.has(0) // what is under way pauses as well
	}
	link(ethernet)
	if d.Look(t.Context(), nil) == nil {
		t.Error("it is asked more often than it should be")
	}
	d.pass(time.Minute)
	d.may()
	if _, limited := d.Left(); limited {
		t.Error("limited on a link that costs nothing")
	}
}

func TestAMeteredLinkMayHaveABudget(t *testing.T) {
	cfg, link := metered(t, ThenBudget, mib)
	cfg.DailyBudget = 10 * mib
	d := newDevice(t, cfg)
	link(ethernet)
	d.may()
	d.spent(2 * mib)
	link(cellular)
	d.pass(time.Minute)
	d.may()
	d.has(mib)
	d.spent(mib)
	d.waits(ReasonMeteredBudget, begins(t, time.UTC, time.December, 2))
	d.start()
	d.waits(ReasonMeteredBudget, begins(t, time.UTC, time.December, 2))
	link(ethernet)
	d.pass(time.Minute)
	d.may()
	if left, _ := d.Left(); left > 7*mib || left < 7*mib-2*mib/16 {
		t.Errorf("%d bytes are left for all links", left)
	}
}

func TestAMeteredLinkMayBeAllowed(t *testing.T) {
	cfg, link := metered(t, ThenAllow, 0)
	d := newDevice(t, cfg)
	link(cellular)
	d.may()
	if _, limited := d.Left(); limited {
		t.Error("limited")
	}
}

func TestConfigNamesTheKeyThatIsWrong(t *testing.T) {
	unmetered := []string{"/bin/true"}
	for want, cfg := range map[string]Config{
		"rate: ":                  {Rate: 1},
		"rate: must":              {Rate: 1 << 31},
		"burst: means":            {Burst: 1 << 20},
		"burst: must":             {Rate: 4096, Burst: 1},
		"daily_budget: ":          {DailyBudget: -1},
		"windows[0].start: ":      {Windows: windows("25:00", "05:00")},
		"metered.unmetered: is":   {Metered: Metered{Then: ThenWait}},
		"metered.unmetered: must": {Metered: Metered{Unmetered: []string{"true"}}},
		"metered.then: ":          {Metered: Metered{Unmetered: unmetered, Then: "perhaps"}},
		"metered.daily_budget: m": {Metered: Metered{Unmetered: unmetered, Then: ThenBudget}},
		"metered.daily_budget: i": {Metered: Metered{Unmetered: unmetered, DailyBudget: mib}},
		"metered.again: ":         {Metered: Metered{Unmetered: unmetered, Again: -1}},
	} {
		if err := cfg.Validate(); err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
			t.Errorf("%v, want one that begins with %q", err, want)
		}
	}
}

// TestTheLinkIsMeteredWhateverIsDoneThen: also where downloads may go on, and while something
// else keeps from them.
func TestTheLinkIsMeteredWhateverIsDoneThen(t *testing.T) {
	var none *Allowance
	if none.Metered() {
		t.Error("metered, and nobody can know")
	}
	for _, then := range []string{ThenWait, ThenAllow, ThenBudget} {
		for _, shut := range [][]topics.Window{nil, {{Start: "00:00", End: "00:01"}}} {
			cfg, link := metered(t, then, map[string]int64{ThenBudget: 1 << 20}[then])
			cfg.Windows = shut
			d := newDevice(t, cfg)
			if d.Metered() {
				t.Error("metered before anybody has asked")
			}
			for _, script := range []string{cellular, ethernet, "exit 1"} {
				link(script)
				d.pass(time.Minute)
				hold := d.Look(t.Context(), nil)
				if d.Metered() != (script != ethernet) || hold != nil && !Keeps(hold) {
					t.Errorf("%s, %s: metered %v, %+v", then, script, d.Metered(), hold)
				}
			}
		}
	}
	if Keeps(&condition.Hold{Reason: "fact-consent"}) {
		t.Error("a fact is none of these")
	}
}

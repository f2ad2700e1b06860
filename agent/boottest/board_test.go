//go:build !race

package boottest

import (
	"os/exec"
	"strings"
	"testing"

	"groundswell/agent/boot"
	"groundswell/agent/rauc"
)

// persisting is a script for a U-Boot that saves its environment.
func persisting(t *testing.T, script string) string {
	t.Helper()
	if strings.Count(script, "if saveenv;") != 1 {
		t.Fatal("the script does not save once")
	}
	return strings.Replace(script, "if saveenv;", "if run persist;", 1)
}

// TestUBootTries: what the agent tells U-Boot, U-Boot reads, and counts.
func TestUBootTries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		boots  []string // slot and the other one, tries left
	}{
		"it saves":    {persisting(t, boot.ScriptUBoot), []string{"<b> <a> <1>", "<b> <a> <0>", "<a> <b> <0>"}},
		"it does not": {boot.ScriptUBoot, []string{"<a> <b> <1>", "<a> <b> <1>"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := MakeUBoot(t.Context(), t.TempDir(), c.script, map[string]string{"kept": "two words"}, "groundswell_slot", "groundswell_other", "groundswell_tries")
			if err != nil {
				t.Fatal(err)
			}
			chain := boot.UBoot{Config: b.Config()}
			if err := chain.Store(t.Context(), boot.State{Active: "a", Trial: "b", Tries: 2}); err != nil {
				t.Fatal(err)
			}
			for n, want := range c.boots {
				if got, err := b.Boot(t.Context()); err != nil || got != want {
					t.Fatalf("boot %d: %s, %v; want %s", n, got, err, want)
				}
			}
			s, err := chain.Load(t.Context())
			if err != nil || s.Active != "a" || s.Trial != "b" || name == "it saves" != (s.Tries == 0) {
				t.Errorf("%+v, %v", s, err)
			}
			if got := printenv(t, b, "kept"); got != "two words" {
				t.Errorf("what else was in the environment is %q", got)
			}
		})
	}
}

// TestUBootTriesForRAUC is the same of what RAUC tells it.
func TestUBootTriesForRAUC(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, order string
		boots         []string // slot and the other one, tries of a and b left
	}{
		"a trial":                {persisting(t, rauc.ScriptUBoot), "b a", []string{"<b> <a> <1> <1>", "<b> <a> <1> <0>", "<a> <b> <0> <0>", "<a> <> <3> <3>"}},
		"nothing else is good":   {persisting(t, rauc.ScriptUBoot), "b", []string{"<b> <> <1> <1>", "<b> <> <1> <0>", "<b> <> <3> <3>"}},
		"what cannot be counted": {rauc.ScriptUBoot, "b a", []string{"<a> <> <1> <1>"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := MakeUBoot(t.Context(), t.TempDir(), c.script, map[string]string{"BOOT_ORDER": c.order, "BOOT_a_LEFT": "1", "BOOT_b_LEFT": "2"},
				"rauc_slot", "rauc_other", "BOOT_a_LEFT", "BOOT_b_LEFT")
			if err != nil {
				t.Fatal(err)
			}
			for n, want := range c.boots {
				if got, err := b.Boot(t.Context()); err != nil || got != want {
					t.Fatalf("boot %d: %s, %v; want %s", n, got, err, want)
				}
			}
			if got := printenv(t, b, "BOOT_ORDER"); got != c.order {
				t.Errorf("the order is %q", got)
			}
		})
	}
}

// printenv is a variable as a running system sees it.
func printenv(t *testing.T, b *Board, name string) string {
	t.Helper()
	out, err := exec.Command("fw_printenv", "-c", b.Config(), "-n", name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// TestGRUBTriesForRAUC is the same of GRUB, whose environment its own commands write.
func TestGRUBTriesForRAUC(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		variables []string
		boots     []string // entry and fallback, tries that a and b have had
	}{
		"a trial": {[]string{"ORDER=b a", "a_OK=1", "a_TRY=2", "b_OK=1", "b_TRY=1"},
			[]string{"<1> <0> <2> <2>", "<1> <0> <2> <3>", "<0> <1> <3> <3>", "<0> <1> <0> <0>"}},
		"nothing else is good": {[]string{"ORDER=a b", "a_OK=0", "a_TRY=0", "b_OK=1", "b_TRY=2"},
			[]string{"<1> <> <0> <3>", "<1> <> <0> <0>"}},
		"what was installed": {[]string{"ORDER=a b", "a_OK=1", "a_TRY=0", "b_OK=0", "b_TRY=0"},
			[]string{"<0> <> <1> <0>"}},
		"no environment": {nil, []string{"<0> <1> <0> <0>"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := MakeGRUB(t.Context(), t.TempDir(), rauc.ScriptGRUB, c.variables, "default", "fallback", "a_TRY", "b_TRY")
			if err != nil {
				t.Fatal(err)
			}
			for n, want := range c.boots {
				if got, err := b.Boot(t.Context()); err != nil || got != want {
					t.Fatalf("boot %d: %s, %v; want %s", n, got, err, want)
				}
			}
		})
	}
}

package boot

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWhatMakesNoSenseIsNotTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	for _, s := range []State{
		{}, {Active: "c"}, {Active: "a", Trial: "a", Tries: 1}, {Active: "a", Trial: "c", Tries: 1},
		{Active: "a", Tries: 1}, {Active: "b", Trial: "a", Tries: -1}, {Active: "b", Trial: "a", Tries: MaxTries + 1},
		{Active: "a", Over: true}, {Active: "a", Trial: "b", Tries: 1, Over: true}, {Active: "a", Boot: "x\ny"},
	} {
		for name, chain := range map[string]Chain{"GRUB": GRUB{Path: path}, "U-Boot": UBoot{Config: "/none"}} {
			if err := chain.Store(t.Context(), s); !errors.Is(err, ErrEnvironment) || strings.Contains(err.Error(), "fw_setenv") {
				t.Errorf("%s: %+v: %v", name, s, err)
			}
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was written")
	}
}

func TestWhatMakesNoSenseIsReadAsTheScriptsDo(t *testing.T) {
	for _, c := range []struct {
		active, trial, tries string
		want                 State
	}{
		{"", "", "", State{Active: "a"}},
		{"c", "b", "2", State{Active: "a", Trial: "b", Tries: 2}},
		{"b", "b", "2", State{Active: "b"}},
		{"b", "a", "", State{Active: "b", Trial: "a"}},
		{"a", "b", "0", State{Active: "a", Trial: "b"}},
		{"a", "b", "6", State{Active: "a", Trial: "b"}},
		{"a", "b", "02", State{Active: "a", Trial: "b"}},
		{"a", "b", "+2", State{Active: "a", Trial: "b"}},
		{"a", "b", "two", State{Active: "a", Trial: "b"}},
		{"a", "b", "-", State{Active: "a", Trial: "b", Over: true}},
		{"a", "-", "-", State{Active: "a"}},
	} {
		if got := stateOf(map[string]string{VarActive: c.active, VarTrial: c.trial, VarTries: c.tries}); got != c.want {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// TestGRUBsOwnToolAgrees about what is in a block, also where values have backslashes
// and ends of lines.
func TestGRUBsOwnToolAgrees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("grub-editenv", append([]string{path}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("grub-editenv %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	tool("create")
	tool("set", "one=a\\b", "two=x\ngroundswell_active=b\ny", "three=")
	before := tool("list")
	want := State{Active: "b", Trial: "a", Tries: 5}
	chain := GRUB{Path: path}
	if got, err := chain.Load(t.Context()); err != nil || got != (State{Active: "a"}) {
		t.Errorf("got %+v, %v", got, err) // what looks like ours is part of a value
	}
	for range 2 {
		if err := chain.Store(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if got := tool("list"); got != "groundswell_active=b\ngroundswell_trial=a\ngroundswell_tries=5\ngroundswell_boot=--------\n"+before {
			t.Fatalf("the tool reads %q", got)
		}
	}
	tool("set", "groundswell_tries=4")
	want.Tries = 4
	if got, err := chain.Load(t.Context()); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestGRUBNeverSeesTheFileBeingReplaced: it does not read the file system's journal. A
// power cut leaves either sector old or new, so that only one may change.
func TestGRUBNeverSeesTheFileBeingReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	if out, err := exec.Command("grub-editenv", path, "create").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("grub-editenv", path, "set", "long="+strings.Repeat("x", 700)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	chain := GRUB{Path: path}
	if err := chain.Store(t.Context(), State{Active: "a"}); err != nil {
		t.Fatal(err)
	}
	look := func() (os.FileInfo, []byte) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return info, data
	}
	file, before := look()
	for _, s := range []State{{Active: "a", Trial: "b", Tries: 3}, {Active: "b"}, {Active: "b", Trial: "a", Tries: 5}, {Active: "b", Trial: "a"}, {Active: "b"}} {
		if err := chain.Store(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		now, after := look()
		if got, err := chain.Load(t.Context()); err != nil || got != s {
			t.Errorf("%+v: read %+v, %v", s, got, err)
		}
		if !os.SameFile(file, now) || !bytes.Equal(before[512:], after[512:]) {
			t.Errorf("%+v: another file, or the second sector has changed", s)
		}
	}
}

func TestABlockWithoutRoomStaysAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	full := []byte(grubSignature + "x=" + strings.Repeat("y", grubLength-len(grubSignature)-3) + "\n")
	if err := os.WriteFile(path, full, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (GRUB{Path: path}).Store(t.Context(), State{Active: "b"}); !errors.Is(err, ErrEnvironment) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, full) {
		t.Errorf("it was changed: %v", err)
	}
}

// TestWhatIsNoBlockIsReplaced: GRUB takes nothing from it.
func TestWhatIsNoBlockIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "grubenv")
	for _, content := range [][]byte{nil, []byte("x"), make([]byte, grubLength), bytes.Repeat([]byte("#"), 2*grubLength)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := (GRUB{Path: path}).Load(t.Context()); err != nil || got != (State{Active: "a"}) {
			t.Errorf("%.10q: %+v, %v", content, got, err)
		}
		if err := (GRUB{Path: path}).Store(t.Context(), State{Active: "b"}); err != nil {
			t.Errorf("%.10q: %v", content, err)
		}
		if got, err := (GRUB{Path: path}).Load(t.Context()); err != nil || got != (State{Active: "b"}) {
			t.Errorf("%.10q: %+v, %v", content, got, err)
		}
	}
}

func TestTheToolsErrorIsTold(t *testing.T) {
	config := filepath.Join(t.TempDir(), "fw_env.config")
	if err := os.WriteFile(config, []byte("/none/env 0x0 0x4000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"fw_printenv": func() error { _, err := (UBoot{Config: config}).Load(t.Context()); return err }(),
		"fw_setenv":   (UBoot{Config: config}).Store(t.Context(), State{Active: "a"}),
	} {
		if !errors.Is(err, ErrEnvironment) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheKernelsCommandLineNamesTheSlot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cmdline")
	for line, want := range map[string]string{
		"root=/dev/sda2 groundswell.slot=a panic=10\n": "a", "groundswell.slot=a groundswell.slot=b": "b",
		"quiet": "", "xgroundswell.slot=b": "", "": "",
	} {
		if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := RunningSlot(path); err != nil || got != want {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

func FuzzGRUBBlock(f *testing.F) {
	f.Add([]byte(grubSignature + "# WARNING\nx=y\\\nz\ngroundswell_active=b\n"))
	f.Add([]byte(grubSignature + "\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < grubLength {
			data = append(data, bytes.Repeat([]byte("#"), grubLength-len(data))...)
		}
		lines, err := grubLines(data)
		if err != nil {
			return
		}
		want := State{Active: "b", Trial: "a", Tries: 3, Boot: "0123abcd"}
		block, err := grubBlock(lines, want)
		if err != nil {
			return // it does not fit
		}
		again, err := grubLines(block)
		if err != nil {
			t.Fatal(err)
		}
		ours := func(line string) bool { return strings.HasPrefix(line, "groundswell_") }
		kept := slices.DeleteFunc(slices.Clone(lines), ours)
		if got := slices.DeleteFunc(slices.Clone(again), ours); !slices.Equal(got, kept) && len(kept) > 0 {
			t.Errorf("of %q is left %q", kept, got)
		}
		path := filepath.Join(t.TempDir(), "grubenv")
		if err := os.WriteFile(path, block, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := (GRUB{Path: path}).Load(t.Context()); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/internal/cli"
	"groundswell/topics/pack"
)

func TestAPackIsMadeOfFiles(t *testing.T) {
	mcu, system := write(t, "mcu", "controller"), write(t, "system", "all the rest")
	dir := t.TempDir()
	out := filepath.Join(dir, "set.tar")
	args := []string{"release", "pack", "--member", "mcu@2.1.0=" + mcu, "--member", "system@7.0.0-rc.1=" + system, "--out", out}
	shown := mustRun(t, args...)
	for _, part := range []string{"MEMBER", "mcu", "2.1.0", "system", "7.0.0-rc.1"} {
		if !strings.Contains(shown, part) {
			t.Errorf("no %q in\n%s", part, shown)
		}
	}
	first, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	index, err := pack.Read(bytes.NewReader(first), nil)
	if err != nil || len(index.Members) != 2 || index.Members[0].Name != "mcu" || index.Members[1].Length != 12 {
		t.Fatalf("%+v, %v", index, err)
	}
	var printed pack.Index
	if err := json.Unmarshal([]byte(mustRun(t, append(args, "-o", "json")...)), &printed); err != nil || len(printed.Members) != 2 {
		t.Errorf("%+v, %v", printed, err)
	}
	if again, err := os.ReadFile(out); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same files make another pack (%v)", err)
	}

	// What is refused leaves the file as it was, and nothing beside it.
	for _, c := range []struct {
		says string
		code int
		args []string
	}{
		{"MEMBER@VERSION=FILE", cli.Usage, []string{"mcu=" + mcu}},
		{"no such file", cli.Failed, []string{"mcu@1.0.0=" + mcu + "x"}},
		{"members[0].version", cli.Failed, []string{"mcu@new=" + mcu}},
		{"members[0].name", cli.Failed, []string{"../mcu@1.0.0=" + mcu}},
		{"members[1].name", cli.Failed, []string{"mcu@1.0.0=" + mcu, "mcu@1.0.0=" + mcu}},
		{"members[0].length", cli.Failed, []string{"mcu@1.0.0=" + write(t, "empty", "")}},
	} {
		args := []string{"release", "pack", "--out", out}
		for _, m := range c.args {
			args = append(args, "--member", m)
		}
		if code, _, errOut := run(t, args...); code != c.code || !strings.Contains(errOut, c.says) {
			t.Errorf("%v: exit code %d, %s", c.args, code, errOut)
		}
	}
	files, err := os.ReadDir(dir)
	if now, errNow := os.ReadFile(out); err != nil || errNow != nil || len(files) != 1 || !bytes.Equal(first, now) {
		t.Errorf("left: %v, %v, %v", files, err, errNow)
	}
}

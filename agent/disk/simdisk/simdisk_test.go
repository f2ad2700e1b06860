package simdisk

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"groundswell/agent/disk"
)

func nothing() bool { return false }

func read(t *testing.T, d *Disk, path string) string {
	t.Helper()
	data, err := disk.ReadFile(d, path, 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// put leaves a file that was written, and synced if so wanted.
func put(t *testing.T, d *Disk, path, text string, sync bool) {
	t.Helper()
	f, err := d.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write([]byte(text))
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	d := New()
	d.Put("/d/old", []byte("old"))
	put(t, d, "/d/old", "new", false)
	put(t, d, "/d/nameless", "x", true)
	if err := disk.Replace(d, "/d/whole", []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, d, "/d/late", "x", true)
	d.Restart(false, nothing) // a kill loses nothing
	if got := read(t, d, "/d/old"); got != "new" {
		t.Errorf("after a kill: %q", got)
	}
	d.Restart(true, nothing)
	for path, want := range map[string]string{"/d/old": "old", "/d/nameless": "x", "/d/whole": "whole", "/d/late": "(none)"} {
		if got := read(t, d, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestPowerCutTearsBetweenSectors(t *testing.T) {
	d := New()
	d.Put("/d/f", bytes.Repeat([]byte("o"), 3*sector))
	f, err := d.OpenFile("/d/f", os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte("n"), 2*sector), sector/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	d.Restart(true, func() bool { asked++; return asked == 2 })
	got := read(t, d, "/d/f")
	if want := string(bytes.Repeat([]byte("o"), sector)) + string(bytes.Repeat([]byte("n"), sector)) + string(bytes.Repeat([]byte("o"), sector)); got != want || asked != 3 {
		t.Errorf("%d sectors were asked about, and the second is not all that is new", asked)
	}
}

func TestSyncThatFailsLosesWhatItShouldHaveWritten(t *testing.T) {
	d := New()
	d.Put("/d/f", []byte("old"))
	d.Ask = func(c Change) Verdict {
		if c.Op == "sync" {
			return Verdict{Err: syscall.EIO}
		}
		return Verdict{}
	}
	f, err := d.OpenFile("/d/f", os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("new"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Ask = nil
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	d.Restart(true, func() bool { return true })
	if got := read(t, d, "/d/f"); got != "old" {
		t.Errorf("a later sync has brought it back: %q", got)
	}
}

func TestNothingWorksAfterACut(t *testing.T) {
	d := New()
	d.Put("/d/f", []byte("x"))
	f, err := disk.Open(d, "/d/f")
	if err != nil {
		t.Fatal(err)
	}
	cut := 0
	d.Cut = func() { cut++ }
	d.Ask = func(Change) Verdict { return Verdict{CutAfter: true} }
	if err := d.Remove("/d/f"); !errors.Is(err, ErrCut) || cut != 1 {
		t.Errorf("%v, cut %d times", err, cut)
	}
	_, errRead := f.Read(make([]byte, 1))
	_, errOpen := disk.Open(d, "/d/f")
	for what, err := range map[string]error{"read": errRead, "open": errOpen, "rename": d.Rename("/d/f", "/d/g"), "sync-dir": d.SyncDir("/d")} {
		if !errors.Is(err, ErrCut) {
			t.Errorf("%s: %v", what, err)
		}
	}
	d.Restart(false, nothing)
	if got := read(t, d, "/d/f"); got != "(none)" {
		t.Errorf("cut off after the removal: %q", got)
	}
}

package disk_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"groundswell/agent/disk"
	"groundswell/agent/disk/simdisk"
)

// TestWhatWasRemovedStaysSo: also when it was a first try that removed it, and failed to
// make that durable.
func TestWhatWasRemovedStaysSo(t *testing.T) {
	d := simdisk.New()
	d.Put("/data/trial.json", []byte("{}"))
	failing := func(err error) func(simdisk.Change) simdisk.Verdict {
		return func(c simdisk.Change) (v simdisk.Verdict) {
			if c.Op == "sync-dir" {
				v.Err = err
			}
			return v
		}
	}
	d.Ask = failing(syscall.EIO)
	for range 2 {
		if err := disk.Remove(d, "/data/trial.json"); !errors.Is(err, syscall.EIO) {
			t.Fatalf("it is said to be durable: %v", err)
		}
	}
	d.Ask = nil
	if err := disk.Remove(d, "/data/trial.json"); err != nil {
		t.Fatal(err)
	}
	d.Restart(true, func() bool { return false })
	if _, err := d.Lstat("/data/trial.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a power cut: %v", err)
	}
	d.Ask = failing(syscall.EROFS)
	if err := disk.Remove(d, "/data/trial.json"); err != nil {
		t.Errorf("nothing to remove, on a disk that is read-only: %v", err)
	}
}

package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"testing"

	"groundswell/agent/disk"
	"groundswell/agent/disk/simdisk"
)

// A confirmation that was cut off by a kill is finished by the next process, which finds
// a part of it; all of it is there after a power cut.
func TestConfirmationOverAKillAndAPowerCut(t *testing.T) {
	on := simdisk.New()
	on.Put("/factory", []byte("one"))
	open := func() *Dir {
		t.Helper()
		d, err := OpenDirOn(on, "/slots")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	sum := sha256.Sum256([]byte("two"))
	image := Image{Version: "2.0.0", SHA256: hex.EncodeToString(sum[:]), Length: 3}
	path, err := d.Staging(image.SHA256)
	if err := errors.Join(err, d.Provision("/factory", "1.0.0"), disk.WriteSynced(on, path, []byte("two"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Stage(image); err != nil {
		t.Fatal(err)
	}
	if err := d.Arm(3); err != nil {
		t.Fatal(err)
	}
	if slot, _, trial, err := d.Boot(); slot != "b" || !trial || err != nil {
		t.Fatalf("booted %s, %v, %v", slot, trial, err)
	}
	on.Ask = func(c simdisk.Change) simdisk.Verdict {
		return simdisk.Verdict{CutAfter: c.Op == "rename" && filepath.Base(c.Path) == "image.json"}
	}
	if err := d.Confirm("b"); !errors.Is(err, simdisk.ErrCut) {
		t.Fatal(err)
	}
	on.Ask = nil
	on.Restart(false, nil)
	d = open()
	d.Booted("b")
	if err := d.Confirm("b"); err != nil {
		t.Fatal(err)
	}
	on.Restart(true, func() bool { return false })
	if slot, image, trial, err := open().Boot(); slot != "b" || image.Version != "2.0.0" || trial || err != nil {
		t.Errorf("booted slot %s, %s, on trial %v, %v", slot, image.Version, trial, err)
	}
}

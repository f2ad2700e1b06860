package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"groundswell/agent/disk/simdisk"
)

// slots are a slots' directory on a simulated disk, with 1.0.0 in slot a and what will
// be 2.0.0.
type slots struct {
	*Dir
	t     *testing.T
	on    *simdisk.Disk
	image Image
}

func newSlots(t *testing.T) *slots {
	t.Helper()
	sum := sha256.Sum256([]byte("two"))
	s := &slots{t: t, on: simdisk.New(), image: Image{Version: "2.0.0", SHA256: hex.EncodeToString(sum[:]), Length: 3}}
	s.on.Put("/factory", []byte("one"))
	s.open()
	if err := s.Provision("/factory", "1.0.0"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *slots) open() {
	s.t.Helper()
	d, err := OpenDirOn(s.on, "/slots")
	if err != nil {
		s.t.Fatal(err)
	}
	s.Dir = d
}

// download writes the artifact, and synchronises it if it is told to.
func (s *slots) download(sync bool) {
	s.t.Helper()
	path, err := s.Staging(s.image.SHA256)
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := s.on.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := file.Write([]byte("two")); err != nil {
		s.t.Fatal(err)
	}
	if sync {
		if err := file.Sync(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// try boots 2.0.0 on trial.
func (s *slots) try() {
	s.t.Helper()
	if _, err := s.Stage(s.image); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Arm(3); err != nil {
		s.t.Fatal(err)
	}
	if slot, _, trial, err := s.Boot(); slot != "b" || !trial || err != nil {
		s.t.Fatalf("booted %s, %v, %v", slot, trial, err)
	}
}

// boots2 cuts the power, and wants 2.0.0 to boot by itself.
func (s *slots) boots2() {
	s.t.Helper()
	s.on.Restart(true, func() bool { return false })
	s.open()
	if slot, image, trial, err := s.Boot(); slot != "b" || image.Version != "2.0.0" || trial || err != nil {
		s.t.Errorf("booted slot %s, %s, on trial %v, %v", slot, image.Version, trial, err)
	}
}

// A confirmation that was cut off by a kill is finished by the next process, which finds
// a part of it; all of it is there after a power cut.
func TestConfirmationOverAKillAndAPowerCut(t *testing.T) {
	s := newSlots(t)
	s.download(true)
	s.try()
	s.on.Ask = func(c simdisk.Change) simdisk.Verdict {
		return simdisk.Verdict{CutAfter: c.Op == "rename" && filepath.Base(c.Path) == "image.json"}
	}
	if err := s.Confirm("b"); !errors.Is(err, simdisk.ErrCut) {
		t.Fatal(err)
	}
	s.on.Ask = nil
	s.on.Restart(false, nil)
	s.open()
	s.Booted("b")
	if err := s.Confirm("b"); err != nil {
		t.Fatal(err)
	}
	s.boots2()
}

// A confirmation that failed because the disk did is repeated by the same process, which
// finds a part of it; all of it is there after a power cut.
func TestConfirmationOverAFailingDiskAndAPowerCut(t *testing.T) {
	for _, failing := range []string{"/slots/b", "/slots"} {
		s := newSlots(t)
		s.download(true)
		s.try()
		s.on.Ask = func(c simdisk.Change) (v simdisk.Verdict) {
			if c.Op == "sync-dir" && c.Path == failing {
				v.Err = syscall.EIO
			}
			return v
		}
		if err := s.Confirm("b"); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		s.on.Ask = nil
		if err := s.Confirm("b"); err != nil {
			t.Fatal(err)
		}
		s.boots2()
	}
}

// What was downloaded may be only in the kernel's memory when it is staged: whoever
// downloaded it was killed before it was synchronised.
func TestStagedOverAKillAndAPowerCut(t *testing.T) {
	s := newSlots(t)
	s.download(false)
	s.on.Restart(false, nil)
	s.open()
	s.try()
	if err := s.Confirm("b"); err != nil {
		t.Fatal(err)
	}
	s.boots2()
}

// What could not be synchronised may never get onto the disk: it is downloaded again.
func TestWhatCannotBeSynchronisedIsNotStaged(t *testing.T) {
	s := newSlots(t)
	s.download(false)
	s.on.Ask = func(c simdisk.Change) (v simdisk.Verdict) {
		if c.Op == "sync" {
			v.Err = syscall.EIO
		}
		return v
	}
	if _, err := s.Stage(s.image); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	s.on.Ask = nil
	if _, err := s.Stage(s.image); !errors.Is(err, ErrNotStaged) {
		t.Errorf("staged from what was lost: %v", err)
	}
}

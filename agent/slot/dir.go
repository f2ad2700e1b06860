package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"groundswell/agent/disk"
	"groundswell/agent/update"
)

var (
	// ErrEmpty: no slot holds anything that may run.
	ErrEmpty = errors.New("no slot holds a version that may run")
	// ErrDamaged: an artifact is not what its image says.
	ErrDamaged = errors.New("artifact in the slot is damaged")
	// ErrNoFallback: what runs could not be booted again, so there is nothing
	// to fall back to.
	ErrNoFallback = errors.New("the version to fall back to cannot be booted")
	// ErrGivenUp: the newest boot chose another slot.
	ErrGivenUp = errors.New("another slot was booted")
	// ErrNotStaged: neither the staging file nor the idle slot holds the image.
	ErrNotStaged = errors.New("image is not staged")
	// ErrArtifact: the bytes are those that were signed, but the slots cannot take them.
	ErrArtifact = errors.New("artifact is not for this component")
	// ErrInstaller: what installs on this device has refused the image, and says why.
	ErrInstaller = errors.New("not installed")
	// ErrUnavailable: what installs on this device does not answer now. It may later, and
	// can be asked again.
	ErrUnavailable = errors.New("does not answer")
)

// Dir is the two slots on disk. It is safe for concurrent use.
type Dir struct {
	on   disk.FS
	path string

	mu     sync.Mutex // guards the files and what follows
	booted *string    // what boot chose last, "" if nothing could be; nil before the first
	kept   string     // the slot to keep, while the link could not be pointed to it
	ended  string     // the slot whose trial is over, while that could not be written

	settled bool // what was found here is durable
}

// trial is one boot of another slot than the active one, counted.
type trial struct {
	Slot  string `json:"slot"`
	Tries int    `json:"tries"` // launches that are left
}

// OpenDir makes the directories. The slots may be empty.
func OpenDir(path string) (*Dir, error) { return OpenDirOn(disk.OS, path) }

// OpenDirOn is OpenDir on another file system than the machine's.
func OpenDirOn(on disk.FS, path string) (*Dir, error) {
	for _, name := range []string{"a", "b"} {
		if err := on.MkdirAll(filepath.Join(path, name), 0o700); err != nil {
			return nil, fmt.Errorf("open slots: %w", err)
		}
	}
	d := &Dir{on: on, path: path}
	_ = d.settle() // again before anything is built on it
	return d, nil
}

// settle makes durable what is in the directories: whoever put it there may have been
// killed before it was, and a power cut would take back what is built on it. Files were
// synced before they got their names.
func (d *Dir) settle() error {
	if d.settled {
		return nil
	}
	for _, path := range []string{filepath.Join(d.path, "a"), filepath.Join(d.path, "b"), d.path} {
		if err := d.on.SyncDir(path); err != nil {
			return err
		}
	}
	d.settled = true
	return nil
}

// maxBookkeeping bounds what is read of a file that says what is in the slots.
const maxBookkeeping = 64 << 10

func (d *Dir) file(slot, name string) string { return filepath.Join(d.path, slot, name) }

func other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}

// active is the slot that boots by itself; "a" while nothing was provisioned.
func (d *Dir) active() string {
	if d.kept != "" {
		return d.kept
	}
	if target, err := d.on.Readlink(filepath.Join(d.path, "active")); err == nil && target == "b" {
		return "b"
	}
	return "a"
}

// Active is the slot that boots by itself, and what it holds. ErrEmpty when
// nothing was provisioned.
func (d *Dir) Active() (slot string, image Image, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot = d.active()
	image, err = d.image(slot)
	if err != nil {
		return slot, Image{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	return slot, image, nil
}

// Idle is the slot that a new version goes into.
func (d *Dir) Idle() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return other(d.active())
}

// Staging is the file that an artifact is downloaded into. Parts of others are
// removed: each artifact has a file of its own, because the part of one is of
// no use to another.
func (d *Dir) Staging(sha256 string) (path string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path = d.staging(other(d.active()), sha256)
	return path, d.discard(path)
}

func (d *Dir) staging(slot, sha256 string) string {
	return d.file(slot, "staging-"+sha256[:min(16, len(sha256))])
}

func (d *Dir) image(slot string) (Image, error) {
	data, err := disk.ReadFile(d.on, d.file(slot, "image.json"), maxBookkeeping)
	if errors.Is(err, os.ErrNotExist) {
		return Image{}, ErrEmpty
	}
	if err != nil {
		return Image{}, err
	}
	var image Image
	if err := json.Unmarshal(data, &image); err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return image, nil
}

// Provision puts a first version into the active slot, unless either slot has
// one, or had one: what is damaged is for booting to deal with.
func (d *Dir) Provision(artifact, version string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot := d.active()
	if _, err := d.image(slot); !errors.Is(err, ErrEmpty) {
		return nil
	}
	if image, err := d.image(other(slot)); !errors.Is(err, ErrEmpty) && (err != nil || image.Good) {
		return nil
	}
	staging := d.staging(slot, "provisioned")
	image, err := copyTo(d.on, staging, artifact)
	if err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	image.Version, image.Good = version, true
	if err := d.place(staging, slot, image); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	if err := d.link(slot); err != nil {
		return fmt.Errorf("provision: %w", err)
	}
	return nil
}

func copyTo(on disk.FS, path, from string) (Image, error) {
	in, err := disk.Open(on, from)
	if err != nil {
		return Image{}, err
	}
	defer in.Close()
	out, err := on.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return Image{}, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return Image{}, err
	}
	return Image{SHA256: hex.EncodeToString(h.Sum(nil)), Length: n}, nil
}

// Stage puts what was downloaded into the idle slot, after verifying it once
// more, and returns the slot. It may be repeated, and finds what was staged
// before. ErrNotStaged means that the bytes are not there, or no longer whole.
func (d *Dir) Stage(image Image) (slot string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot, image.Good = other(d.active()), false
	// Whatever was on trial in this slot gives way: a trial is of one image.
	if err := errors.Join(d.settle(), d.endTrial()); err != nil {
		return slot, fmt.Errorf("stage: %w", err)
	}
	staging := d.staging(slot, image.SHA256)
	errStaging := Verify(d.on, staging, image)
	if errStaging == nil {
		if err := d.place(staging, slot, image); err != nil {
			return slot, fmt.Errorf("stage: %w", err)
		}
		return slot, nil
	}
	// Staged before, perhaps without the last step.
	if Verify(d.on, d.file(slot, "artifact"), image) == nil {
		if err := d.writeJSON(d.file(slot, "image.json"), image); err != nil {
			return slot, fmt.Errorf("stage: %w", err)
		}
		return slot, nil
	}
	// A part can be completed; what is long enough and wrong cannot.
	if info, err := d.on.Stat(staging); err == nil && info.Size() >= image.Length {
		errStaging = errors.Join(errStaging, d.remove(staging))
	}
	return slot, fmt.Errorf("%w: %w", ErrNotStaged, errStaging)
}

// place moves the staging file of a slot to where it is run from. The old image
// goes first: a slot is empty until all of the new one is there.
func (d *Dir) place(staging, slot string, image Image) error {
	if err := d.remove(d.file(slot, "image.json")); err != nil {
		return err
	}
	if err := d.on.Chmod(staging, 0o700); err != nil {
		return err
	}
	if err := d.on.Rename(staging, d.file(slot, "artifact")); err != nil {
		return err
	}
	return d.writeJSON(d.file(slot, "image.json"), image)
}

// Discard removes what was downloaded. An image that was staged stays, but never
// boots without a trial.
func (d *Dir) Discard() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.discard("")
}

// discard removes the staging files of the idle slot but one. Caller holds mu.
func (d *Dir) discard(keep string) error {
	files, err := d.on.Glob(d.file(other(d.active()), "staging-*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if path != keep {
			if err := d.remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Arm makes the next launches boot the idle slot, at most tries times. Where a
// version runs, it must be one that can be booted again: ErrNoFallback. Where
// nothing could be booted, there is nothing to lose.
func (d *Dir) Arm(tries int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	active := d.active()
	slot := other(active)
	if err := d.settle(); err != nil {
		return fmt.Errorf("arm: %w", err)
	}
	if _, err := d.image(slot); err != nil {
		return fmt.Errorf("arm: %w", err)
	}
	if d.booted == nil || *d.booted != "" {
		if _, err := d.good(active); err != nil {
			return fmt.Errorf("arm: %w: slot %s: %w", ErrNoFallback, active, err)
		}
	}
	if d.kept != "" { // a boot after a power cut must find the link right
		if err := d.link(active); err != nil {
			return fmt.Errorf("arm: %w: %w", ErrNoFallback, err)
		}
	}
	if t, ok := d.trial(); ok && t.Slot == slot {
		return nil // armed before; its counter goes on
	}
	return d.writeJSON(filepath.Join(d.path, "trial.json"), trial{slot, tries})
}

func (d *Dir) trial() (trial, bool) {
	data, err := disk.ReadFile(d.on, filepath.Join(d.path, "trial.json"), maxBookkeeping)
	var t trial
	if err != nil || json.Unmarshal(data, &t) != nil || t.Slot != "a" && t.Slot != "b" {
		return trial{}, false // written whole or not at all; anything else is no trial
	}
	return t, true
}

// Boot chooses what to launch and verifies it: the trial while it has tries
// left, else the active slot, else whatever was good before. A launch of the
// trial is counted before this returns; when it cannot be counted, because the
// disk is full or read-only, it is not made. Booting what is good needs no
// writing at all.
func (d *Dir) Boot() (slot string, image Image, onTrial bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	slot, image, onTrial, err = d.choose()
	d.booted = &slot
	return slot, image, onTrial, err
}

func (d *Dir) choose() (slot string, image Image, onTrial bool, err error) {
	active := d.active()
	var failures []error
	t, ok := d.trial()
	if ok && t.Slot != active && t.Slot != d.ended && t.Tries > 0 {
		t.Tries--
		image, err := d.bootable(t.Slot)
		if err != nil {
			t.Tries = 0
		}
		if errCount := d.writeJSON(filepath.Join(d.path, "trial.json"), t); err == nil && errCount != nil {
			err = fmt.Errorf("the launch cannot be counted: %w", errCount)
		}
		if err == nil {
			return t.Slot, image, true, nil
		}
		failures = append(failures, fmt.Errorf("trial slot %s: %w", t.Slot, err))
	}
	for _, slot := range []string{active, other(active)} {
		if slot == t.Slot && slot != active {
			continue // it had its trial
		}
		image, err := d.good(slot)
		if err != nil {
			failures = append(failures, fmt.Errorf("slot %s: %w", slot, err))
			continue
		}
		if slot != active {
			// From now on this is the one to keep, and the other the idle one;
			// where that cannot be written, at least until the next start, which
			// will find the same.
			if d.link(slot) != nil {
				d.kept = slot
			}
		}
		return slot, image, false, nil
	}
	return "", Image{}, false, errors.Join(failures...)
}

// good is bootable for what may boot without a trial.
func (d *Dir) good(slot string) (Image, error) {
	image, err := d.bootable(slot)
	if err == nil && !image.Good {
		err = errors.New("it was never confirmed")
	}
	return image, err
}

func (d *Dir) bootable(slot string) (Image, error) {
	image, err := d.image(slot)
	if err != nil {
		return Image{}, err
	}
	return image, Verify(d.on, d.file(slot, "artifact"), image)
}

// Confirm makes the slot on trial the active one. It may be repeated.
// ErrGivenUp means that it is not what was booted last.
func (d *Dir) Confirm(slot string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.booted == nil || *d.booted != slot {
		return fmt.Errorf("confirm slot %s: %w", slot, ErrGivenUp)
	}
	image, err := d.image(slot)
	if err := errors.Join(d.settle(), err); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if !image.Good {
		image.Good = true
		if err := d.writeJSON(d.file(slot, "image.json"), image); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	if d.active() != slot {
		if err := d.link(slot); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	return d.endTrial()
}

// FallBack ends the trial and makes sure that its slot never boots again
// without another. It only removes files, so that it works on a full disk. On
// one that is read-only it fails, but holds as long as this process lives; after
// that the trial has what is left of its tries, once its launches can be counted
// again. If the active slot has been damaged meanwhile, the image stays where it
// is: it may be the only thing that this device has left.
//
// over reports whether the trial has ended, at least for this process.
func (d *Dir) FallBack() (over bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	active := d.active()
	if t, ok := d.trial(); ok && t.Slot != active {
		if _, err := d.good(active); err == nil {
			d.ended = t.Slot
			if err := d.remove(d.file(t.Slot, "image.json")); err != nil {
				return true, fmt.Errorf("fall back: %w", err)
			}
		}
	}
	over = d.ended != ""
	err = d.endTrial()
	return over || err == nil, err
}

// revert makes the other slot the active one in place of one that was confirmed, and
// empties that. It may be repeated. ErrNoFallback means that the other one may not boot,
// and that nothing was changed.
func (d *Dir) revert(slot string) error {
	if slot != "a" && slot != "b" {
		return fmt.Errorf("revert: there is no slot %q", slot)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := other(slot)
	if _, err := d.good(before); err != nil {
		return fmt.Errorf("revert: %w: slot %s: %w", ErrNoFallback, before, err)
	}
	if d.active() == slot {
		if err := d.link(before); err != nil {
			return fmt.Errorf("revert: %w", err)
		}
	}
	if err := d.endTrial(); err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	if err := d.remove(d.file(slot, "image.json")); err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	return nil
}

func (d *Dir) endTrial() error {
	err := d.remove(filepath.Join(d.path, "trial.json"))
	if err == nil {
		d.ended = ""
	}
	return err
}

// Trial says what became of the trial of a slot, given which slot runs now.
func (d *Dir) Trial(slot, running string) update.Trial {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, armed := d.trial()
	switch {
	case slot == "" || slot != d.active() && (!armed || t.Slot != slot):
		return update.NotArmed
	case running == slot:
		return update.OnTrial
	}
	return update.FellBack
}

// Armed reports whether there is a trial that was not ended, also when it has
// no tries left.
func (d *Dir) Armed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.trial()
	return ok
}

// link points the active link to a slot, atomically.
func (d *Dir) link(slot string) error {
	tmp := filepath.Join(d.path, ".active")
	if err := d.remove(tmp); err != nil {
		return err
	}
	if err := d.on.Symlink(slot, tmp); err != nil {
		return err
	}
	if err := d.on.Rename(tmp, filepath.Join(d.path, "active")); err != nil {
		return err
	}
	d.kept = ""
	return d.on.SyncDir(d.path)
}

func (d *Dir) writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return disk.Replace(d.on, path, data, 0o600)
}

func (d *Dir) remove(path string) error { return disk.Remove(d.on, path) }

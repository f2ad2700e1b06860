package slot

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"groundswell/agent/disk"
	"groundswell/agent/update"
)

// trial is one boot of another slot than the active one, counted.
type trial struct {
	Slot  string `json:"slot"`
	Tries int    `json:"tries"` // launches that are left
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

// putBack is the part of FallBack that is about booting: that there was a trial, and that
// it is over, stays written. It may be repeated. Like FallBack it goes on a full disk, and holds
// as long as this process lives on one that is read-only.
//
// over reports whether the trial has ended, at least for this process.
func (d *Dir) putBack() (over bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	active := d.active()
	t, ok := d.trial()
	if !ok || t.Slot == active {
		return true, nil
	}
	if _, err := d.good(active); err != nil {
		return false, nil // there is nothing to go back to
	}
	d.ended = t.Slot
	if t.Tries > 0 {
		t.Tries = 0
		_ = d.writeJSON(filepath.Join(d.path, "trial.json"), t) // without its image it boots no more either
	}
	if err := d.remove(d.file(t.Slot, "image.json")); err != nil {
		return true, fmt.Errorf("put back: %w", err)
	}
	return true, nil
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

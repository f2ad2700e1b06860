package slot

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Where another process boots the slots, and whoever manages them is itself what was
// booted, as the agent is in its own slots, a Dir has to be told what it did not do.

// Booted says what this process was booted from: a slot, or "" if from none of them.
func (d *Dir) Booted(slot string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.booted = &slot
}

// Exhaust takes all tries that the trial has left. It is not ended by that: whatever is
// booted next finds that it fell back.
func (d *Dir) Exhaust() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.trial()
	if !ok {
		return errors.New("exhaust: nothing is on trial")
	}
	t.Tries = 0
	if err := d.writeJSON(filepath.Join(d.path, "trial.json"), t); err != nil {
		return fmt.Errorf("exhaust: %w", err)
	}
	return nil
}

// Image is what a slot says that it holds. ErrEmpty, or ErrDamaged.
func (d *Dir) Image(slot string) (Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.image(slot)
}

// Check is what a slot holds, after verifying it.
func (d *Dir) Check(slot string) (Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	image, err := d.bootable(slot)
	if err != nil {
		return Image{}, fmt.Errorf("slot %s: %w", slot, err)
	}
	return image, nil
}

// Executable is what a slot is booted by.
func (d *Dir) Executable(slot string) string { return d.file(slot, "artifact") }

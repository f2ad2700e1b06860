package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"groundswell/agent/disk"
)

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
	// It was verified as the kernel has it. Whoever downloaded it may have been killed
	// before it was on the disk.
	if err := disk.Sync(d.on, staging); err != nil {
		return errors.Join(err, d.remove(staging))
	}
	if err := d.on.Chmod(staging, 0o700); err != nil {
		return err
	}
	if err := d.on.Rename(staging, d.file(slot, "artifact")); err != nil {
		return d.doubt(err)
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

// discard removes the staging files of the idle slot but one and what is about it.
// Caller holds mu.
func (d *Dir) discard(keep string) error {
	files, err := d.on.Glob(d.file(other(d.active()), "staging-*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		if !belongs(path, keep) {
			if err := d.remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

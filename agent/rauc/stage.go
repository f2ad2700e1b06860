package rauc

import (
	"context"
	"errors"
	"fmt"

	"groundswell/agent/disk"
	"groundswell/agent/slot"
)

func (s *Slots) downloads() slot.Downloads { return slot.Downloads{On: disk.OS, Dir: s.cfg.Dir} }

// Staging is the file that a bundle is downloaded into. Parts of others are removed.
func (s *Slots) Staging(sha256 string) (path string, err error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	path = s.downloads().Path(sha256)
	return path, s.downloads().Discard(path)
}

// Discard removes what was downloaded. What is in the idle slot stays, and never boots
// without a trial.
func (s *Slots) Discard() error {
	s.busy.Lock()
	defer s.busy.Unlock()
	return s.downloads().Discard("")
}

// Stage has RAUC install what was downloaded into the idle slot, and returns that. It may
// be repeated, and finds what was staged before. slot.ErrNotStaged means that the bytes
// are not there, or no longer whole.
func (s *Slots) Stage(image slot.Image) (name string, err error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	name, err = s.stage(context.Background(), image)
	if err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	return name, nil
}

func (s *Slots) stage(ctx context.Context, image slot.Image) (string, error) {
	r, on := s.written()
	if on {
		return "", ErrOnTrial
	}
	if err := s.service.quiet(ctx); err != nil {
		return "", err
	}
	sys, err := s.ask(ctx)
	if err != nil {
		return "", err
	}
	if r.Trial != nil { // and nobody has said how it ended
		if err := s.end(ctx, sys); err != nil {
			return "", err
		}
	}
	image.Good = false
	name := sys.idle.bootname
	held := s.holds(name)
	held.Version, held.Release, held.Good = image.Version, image.Release, false
	if held.Image == image && sys.idle.holds.Version == image.Version && s.intact(sys, held) == nil {
		r, _ := s.written()
		return name, s.save(r.holding(name, held))
	}
	if err := s.downloads().Check(image); err != nil {
		return "", err
	}
	return name, s.install(ctx, sys, image)
}

func (s *Slots) holds(name string) held {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.Slots[name]
}

// install installs a bundle that was verified.
func (s *Slots) install(ctx context.Context, before *system, image slot.Image) error {
	bundle, name := s.downloads().Path(image.SHA256), before.idle.bootname
	version, err := s.service.version(ctx, bundle)
	switch {
	case errors.Is(err, ErrRefused): // installing it will say why
	case err != nil:
		return err
	case version != image.Version:
		return fmt.Errorf("%w: the bundle is of version %q, the release of %q", ErrRefused, version, image.Version)
	}
	// Nothing is to be written before what runs is sure to boot.
	if err := s.keep(ctx, before); err != nil {
		return err
	}
	r, _ := s.written()
	if err := s.save(r.holding(name, held{Image: image})); err != nil {
		return err
	}
	s.cfg.Log.Info("RAUC installs", "version", image.Version, "slot", name)
	if err := s.service.install(ctx, bundle, s.progress); err != nil {
		fmt.Fprintln(s.output, err)
		return err
	}
	sys, err := s.ask(ctx)
	if err != nil {
		return err
	}
	if sys.primary == name {
		// It would boot without a trial.
		if err := s.unprefer(ctx, sys); err != nil {
			return err
		}
		return fmt.Errorf("%w: it activates what it installs; system.conf must say activate-installed=false", ErrRefused)
	}
	done, err := installed(before, sys)
	if err != nil {
		return err
	}
	done.Image = image
	if sys.idle.holds.Count == before.idle.holds.Count {
		return fmt.Errorf("%w: it has written nothing to slot %s; system.conf must not say install-same=false", ErrRefused, sys.idle.name)
	}
	if sys.idle.holds.Version != image.Version {
		return fmt.Errorf("%w: it says that slot %s holds version %q, the release is %q", ErrRefused, sys.idle.name, sys.idle.holds.Version, image.Version)
	}
	if err := s.save(r.holding(name, done)); err != nil {
		return err
	}
	return s.downloads().Discard("")
}

func (s *Slots) progress(percent int, message string) {
	fmt.Fprintf(s.output, "%3d %% %s\n", percent, message)
	s.cfg.Log.Info("RAUC installs", "percent", percent, "at", message)
}

// installed is what an installation has put into the idle slot, read back where that is
// possible.
func installed(before, sys *system) (held, error) {
	group := sys.groups[sys.idle.bootname]
	h := held{Holds: contents(group)}
	old := contents(before.groups[before.idle.bootname])
	for _, p := range group {
		if p.holds == old[p.name] || p.holds.Size == 0 {
			continue // the bundle has nothing for it
		}
		switch err := slot.VerifyBeginning(disk.OS, p.device, p.image()); {
		case err == nil:
			h.Plain = append(h.Plain, p.name)
		case p.kind == "raw":
			return held{}, fmt.Errorf("slot %s does not keep what is written to it: %w", p.name, err)
		}
	}
	return h, nil
}

// image is what RAUC has written to a slot's device.
func (p place) image() slot.Image { return slot.Image{SHA256: p.holds.SHA256, Length: p.holds.Size} }

// intact is nil if the idle slot holds what it was given, as far as can be known:
// slot.ErrEmpty, slot.ErrDamaged.
func (s *Slots) intact(sys *system, h held) error {
	group := sys.groups[sys.idle.bootname]
	if h.Length == 0 || h.Holds == nil {
		return slot.ErrEmpty
	}
	if !h.agrees(group) {
		return fmt.Errorf("%w: RAUC says that it holds version %q, installed %s", slot.ErrDamaged, sys.idle.holds.Version, sys.idle.holds.At)
	}
	for _, p := range group {
		for _, plain := range h.Plain {
			if plain != p.name {
				continue
			}
			if err := slot.VerifyBeginning(disk.OS, p.device, p.image()); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}

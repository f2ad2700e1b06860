package group

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"groundswell/agent/slot"
	"groundswell/topics/pack"
)

// errOnTrial: the members' idle slots are taken.
var errOnTrial = errors.New("something is on trial")

// Stage puts what was downloaded into the idle slots of all members, and returns the
// group's slot. It may be repeated, and finds what was staged before. slot.ErrNotStaged
// means that the pack is not there, or no longer whole; slot.ErrArtifact that it is not
// for this group.
func (g *Group) Stage(image slot.Image) (name string, err error) {
	g.steps.Lock()
	defer g.steps.Unlock()
	next := g.current()
	if next.Trial != nil && !g.at(g.running(), next.Trial.From) {
		return "", fmt.Errorf("stage: %w", errOnTrial)
	}
	name, image.Good = other(next.Slot), false
	if len(next.Staged.Places) > 0 && same(next.Staged.Image, image) && g.again(next.Staged.Places) == nil {
		if next.Trial == nil && next.Staged.Image == image {
			return name, nil
		}
		next.Staged.Image, next.Trial = image, nil
		return name, g.save("staged", next)
	}
	if err := g.downloads().Check(image); err != nil {
		return "", err
	}
	if err := g.check(g.downloads().Path(image.SHA256)); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	// From here on the idle slots are no longer what is written down of them.
	next.Staged, next.Trial, next.Before = set{}, nil, nil
	if err := g.save("emptied", next); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	places, err := g.unpack(g.downloads().Path(image.SHA256))
	if err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	next.Staged = set{image, places}
	if err := g.save("staged", next); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	return name, g.downloads().Discard("")
}

// same reports whether two images are of the same bytes.
func same(a, b slot.Image) bool { return a.SHA256 == b.SHA256 && a.Length == b.Length }

// again stages what the members hold already; an error means that they do not.
func (g *Group) again(places []place) error {
	for _, p := range places {
		m := g.member(p.Member)
		if m == nil {
			return slot.ErrNotStaged
		}
		if in, err := m.Slots.Stage(p.Image); err != nil || in != p.Slot {
			return errors.Join(slot.ErrNotStaged, err)
		}
	}
	return nil
}

// check verifies all of a pack, and that it is for these members.
func (g *Group) check(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	index, err := pack.Read(file, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", slot.ErrArtifact, err)
	}
	var have, want []string
	for _, m := range index.Members {
		have = append(have, m.Name)
	}
	for _, m := range g.cfg.Members {
		want = append(want, m.Name)
	}
	if h, w := strings.Join(have, " "), strings.Join(want, " "); h != w {
		return fmt.Errorf("%w: it is for the members %q, the group has %q", slot.ErrArtifact, h, w)
	}
	return nil
}

// unpack stages all members of a pack.
func (g *Group) unpack(path string) ([]place, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var places []place
	_, err = pack.Read(file, func(p pack.Member, body io.Reader) error {
		m := g.member(p.Name)
		if m == nil {
			return fmt.Errorf("%w: there is no member %s", slot.ErrArtifact, p.Name)
		}
		to, err := m.Slots.Staging(p.SHA256)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		if err := write(to, body); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		image := slot.Image{Version: p.Version, SHA256: p.SHA256, Length: p.Length}
		return g.step("stage", m, func() error {
			in, err := m.Slots.Stage(image)
			if errors.Is(err, slot.ErrNotStaged) {
				// It was whole a moment ago: downloading it again is of no use.
				return fmt.Errorf("the disk does not keep what is written to it: %v", err)
			}
			places = append(places, place{p.Name, in, image})
			return err
		})
	})
	return places, err
}

// write writes a file, whatever is there.
func write(path string, from io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Sync(), file.Close())
}

package trust

import (
	"fmt"
	"slices"

	"groundswell/topics"
)

// Facts are what a device knows about itself for certain, from its
// certificate.
type Facts struct {
	Model    string
	Hardware string // hardware revision
}

// fits reports whether a release is made for the device.
func (r Release) fits(f Facts) bool {
	return slices.Contains(r.Models, f.Model) && (len(r.Hardware) == 0 || slices.Contains(r.Hardware, f.Hardware))
}

// Floor is the lowest version of the component that may be installed on such
// a device: the highest security floor of all releases that fit it. Empty:
// any.
func (i Images) Floor(component string, f Facts) string {
	floor := ""
	for _, image := range i.byPath {
		r := image.Release
		if r.Component != component || !r.fits(f) || topics.CheckVersion("security_floor", r.SecurityFloor) != nil {
			continue // most releases set no floor
		}
		if floor == "" {
			floor = r.SecurityFloor
		} else if higher, err := lower(floor, r.SecurityFloor); err == nil && higher {
			floor = r.SecurityFloor
		}
	}
	return floor
}

// Eligible returns nil when a device may install what a manifest's entry
// names: the release role signed the same artifact, made for this hardware,
// not below the security floor. Otherwise the error is ErrUnknownTarget,
// ErrLength, ErrDigest, ErrMismatch, ErrSchema, ErrHardware or
// ErrSecurityFloor.
func (i Images) Eligible(e topics.Entry, f Facts) error {
	image, ok := i.byPath[e.Target.Path]
	if !ok {
		return fmt.Errorf("%w: %.80q", ErrUnknownTarget, e.Target.Path)
	}
	r := image.Release
	switch {
	case image.Length != e.Target.Length:
		return fmt.Errorf("%w: %s has %d bytes, the director says %d", ErrLength, image.Path, image.Length, e.Target.Length)
	case image.SHA256 != e.Target.SHA256:
		return fmt.Errorf("%w: %s, director and release role differ", ErrDigest, image.Path)
	case r.Schema > ReleaseSchema:
		return fmt.Errorf("%w: release schema %d, known up to %d", ErrSchema, r.Schema, ReleaseSchema)
	case r.MinAgentSchema > topics.Schema:
		return fmt.Errorf("%w: %s wants an agent of schema %d, this is %d", ErrSchema, image.Path, r.MinAgentSchema, topics.Schema)
	case r.Component != e.Component:
		return fmt.Errorf("%w: component %q, the director says %q", ErrMismatch, r.Component, e.Component)
	case r.Name != e.Release:
		return fmt.Errorf("%w: release %q, the director says %q", ErrMismatch, r.Name, e.Release)
	case r.Version != e.Version:
		return fmt.Errorf("%w: version %s, the director says %s", ErrMismatch, r.Version, e.Version)
	case !sameSet(r.Models, e.Models):
		return fmt.Errorf("%w: models %q, the director says %q", ErrMismatch, r.Models, e.Models)
	case !sameSet(r.Hardware, e.Hardware):
		return fmt.Errorf("%w: hardware %q, the director says %q", ErrMismatch, r.Hardware, e.Hardware)
	case !r.fits(f):
		return fmt.Errorf("%w: %s is for models %q, revisions %q; this is a %q of revision %q", ErrHardware, image.Path, r.Models, r.Hardware, f.Model, f.Hardware)
	}
	floor := i.Floor(r.Component, f)
	if floor == "" {
		return nil
	}
	below, err := lower(r.Version, floor)
	if err != nil {
		return err
	}
	if below {
		return fmt.Errorf("%w: %s is below %s", ErrSecurityFloor, r.Version, floor)
	}
	return nil
}

func sameSet(a, b []string) bool {
	missing := func(set []string) func(string) bool {
		return func(v string) bool { return !slices.Contains(set, v) }
	}
	return !slices.ContainsFunc(a, missing(b)) && !slices.ContainsFunc(b, missing(a))
}

package verify

import (
	"errors"
	"slices"
	"testing"

	"groundswell/agent/fetch"
	"groundswell/certs/trust"
)

// TestImageRootsAreAskedForAlone, one after the other, and what they withdraw is held no longer;
// who cannot be asked for the last one has taken those before it.
func TestImageRootsAreAskedForAlone(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	if _, err := v.Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	w.asked = nil
	if taken, err := v.ImageRoots(t.Context()); taken != 0 || err != nil || !slices.Equal(w.asked, []string{"image root 2"}) {
		t.Errorf("%d taken, %v; it asked for %q", taken, err, w.asked)
	}
	if _, err := v.Held(); err != nil || len(v.RootsChanged()) != 0 {
		t.Errorf("nothing is new: %v", err)
	}
	next := must[*trust.Key](t)(trust.GenerateKey())
	spec := trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.AddDate(1, 0, 0),
		Root: keys(w.root), Targets: keys(next), Snapshot: keys(w.snapshot), Timestamp: keys(w.timestamp),
	}
	w.files["image root 2"] = must[[]byte](t)(trust.RotateRoot(w.imageRoot, spec, w.root))
	away := errors.New("no answer of anybody")
	w.asked, w.failures["image root 3"] = nil, away
	if taken, err := v.ImageRoots(t.Context()); taken != 1 || !errors.Is(err, away) || !slices.Equal(w.asked, []string{"image root 2", "image root 3"}) {
		t.Errorf("%d taken, %v; it asked for %q", taken, err, w.asked)
	}
	if _, err := v.Held(); err == nil || len(v.RootsChanged()) != 1 {
		t.Error("the key was withdrawn")
	}
	w.failures["image root 3"] = fetch.ErrUnsure
	if taken, err := w.open().ImageRoots(t.Context()); taken != 0 || !errors.Is(err, fetch.ErrUnsure) {
		t.Errorf("after a restart: %d taken, %v", taken, err)
	}
}

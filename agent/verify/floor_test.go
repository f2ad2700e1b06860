package verify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"groundswell/certs/trust"
)

var facts = trust.Facts{Model: "cam-a", Hardware: "rev-b"}

// list is a list of releases of these versions of the system, with floors, one after the
// other, beside those of previous; nil: none.
func (w *world) list(root, previous []byte, key *trust.Key, floors ...string) (raw []byte, images trust.Images) {
	w.t.Helper()
	spec := trust.TargetsSpec{Root: root, Previous: previous, Now: now, Expires: now.AddDate(0, 1, 0)}
	for i := 0; i < len(floors); i += 2 {
		r := trust.Release{Schema: 1, Component: "system", Name: "camera", Version: floors[i], SecurityFloor: floors[i+1], Models: []string{"cam-a"}}
		spec.Add = append(spec.Add, trust.ReleaseImage{Path: trust.ReleasePath(r), Length: 1, SHA256: fmt.Sprintf("%064d", 1), Release: r})
	}
	raw = must[[]byte](w.t)(trust.SignTargets(spec, key))
	return raw, must[trust.Images](w.t)(trust.CheckTargets(domain, root, previous, raw, now))
}

func (w *world) floor(v *Verifier, images trust.Images, want string) {
	w.t.Helper()
	if got, err := v.Floor(images, "system", facts); got != want || err != nil {
		w.t.Fatalf("floor %q, %v; want %q", got, err, want)
	}
}

func TestFloorOutlivesTheListThatSetIt(t *testing.T) {
	w := newWorld(t)
	_, low := w.list(w.imageRoot, nil, w.release, "1.0.0", "")
	_, middle := w.list(w.imageRoot, nil, w.release, "1.2.0", "1.1.0")
	_, high := w.list(w.imageRoot, nil, w.release, "10.0.0", "9.1.0", "1.2.0", "1.1.0")
	v := w.open()
	w.floor(v, low, "")
	w.floor(v, middle, "1.1.0")
	w.floor(v, high, "9.1.0")
	w.floor(v, middle, "9.1.0")
	if other, err := v.Floor(high, "modem", facts); other != "" || err != nil {
		t.Errorf("of another component: %q, %v", other, err)
	}
	// Whatever is lost but this.
	if err := os.Remove(filepath.Join(w.dir, "trust")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	w.floor(w.open(), low, "9.1.0")
	// The generation before is a floor too.
	if err := os.WriteFile(filepath.Join(w.dir, "floors"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.floor(w.open(), low, "1.1.0")
	// This as well: what is held of the releases says it again.
	for _, name := range []string{"floors", "floors.old"} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.floor(w.open(), high, "9.1.0")
}

func TestFloorOfAnotherModelIsNone(t *testing.T) {
	w := newWorld(t)
	_, images := w.list(w.imageRoot, nil, w.release, "1.2.0", "1.1.0")
	if got, err := w.open().Floor(images, "system", trust.Facts{Model: "cam-b"}); got != "" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestFloorThatCannotBeWrittenIsAnError(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	_, images := w.list(w.imageRoot, nil, w.release, "1.2.0", "1.1.0")
	blocked := filepath.Join(w.dir, "floors.new", "x")
	if err := os.MkdirAll(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also when it is asked again
		if got, err := v.Floor(images, "system", facts); got != "" || err == nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(blocked)); err != nil {
		t.Fatal(err)
	}
	w.floor(v, images, "1.1.0")
}

// A thief's floor would keep the fleet from any update: the root that drops the stolen
// key takes it back. An older root, of a device that lost what it had, does not.
func TestFloorGoesWithTheKeyThatSetIt(t *testing.T) {
	w := newWorld(t)
	next := must[*trust.Key](t)(trust.GenerateKey())
	spec := trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.AddDate(1, 0, 0),
		Root: keys(w.root), Targets: keys(w.release, next), Snapshot: keys(w.snapshot), Timestamp: keys(w.timestamp),
	}
	two := must[[]byte](t)(trust.RotateRoot(w.imageRoot, spec, w.root))
	spec.Targets = keys(next)
	three := must[[]byte](t)(trust.RotateRoot(two, spec, w.root))
	_, stolen := w.list(w.imageRoot, nil, w.release, "99.0.0", "99.0.0")
	_, low := w.list(w.imageRoot, nil, w.release, "1.0.0", "")
	_, clean := w.list(three, nil, next, "1.2.0", "1.1.0")

	v := w.open()
	w.floor(v, stolen, "99.0.0")
	w.files["image root 2"] = two
	if err := v.WalkRoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.floor(v, low, "99.0.0") // a key more takes nothing back
	w.files["image root 3"] = three
	if err := v.WalkRoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.floor(v, clean, "1.1.0")

	for _, name := range []string{"trust", "trust.old"} {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w.floor(w.open(), low, "1.1.0")
}

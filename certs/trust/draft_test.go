package trust_test

import (
	"errors"
	"testing"

	"groundswell/certs/trust"
)

// TestADraftCountsWhoSignedForWhichRoot follows a root from holder to holder:
// two of three keys sign each root, and one key is replaced.
func TestADraftCountsWhoSignedForWhichRoot(t *testing.T) {
	w := newWorld(t)
	leaving, staying, coming := w.rootKeys[0], w.rootKeys[1], newKey(t)
	spec := w.imageSpec()
	spec.Root = role(2, staying, w.rootKeys[2], coming)
	draft := must[[]byte](t)(trust.RotateRoot(w.imageRoot, spec))
	for _, step := range []struct {
		name             string
		key              *trust.Key
		oldCount, newOne int
		complete         bool
	}{
		{"nobody", nil, 0, 0, false},
		{"one that leaves", leaving, 1, 0, false},
		{"one that comes", coming, 1, 1, false},
		{"one that stays counts for both", staying, 2, 2, true},
	} {
		if step.key != nil {
			draft = must[[]byte](t)(trust.AddSignature(w.imageRoot, draft, step.key))
		}
		d, err := trust.CheckDraft(domain, trust.Image, w.imageRoot, draft)
		if err != nil || len(d.OldSigned) != step.oldCount || len(d.NewSigned) != step.newOne || d.Complete() != step.complete {
			t.Errorf("%s: signed by %d old and %d new, complete %v, err %v", step.name, len(d.OldSigned), len(d.NewSigned), d.Complete(), err)
		}
		if _, err := trust.CheckRotation(domain, trust.Image, w.imageRoot, draft); (err == nil) != step.complete {
			t.Errorf("%s: a verifier says %v", step.name, err)
		}
	}
	if d := must[trust.RotationDraft](t)(trust.CheckDraft(domain, trust.Image, w.imageRoot, draft)); d.Old.Version != 1 || d.New.Version != 2 {
		t.Errorf("versions %d and %d", d.Old.Version, d.New.Version)
	}
}

func TestADraftIsRefusedForAllButTheNumberOfSignatures(t *testing.T) {
	w := newWorld(t)
	next := must[[]byte](t)(trust.RotateRoot(w.imageRoot, w.imageSpec(), w.rootKeys[0]))
	for _, test := range []struct {
		name string
		old  []byte
		raw  []byte
		want error
	}{
		{"changed after signing", w.imageRoot, edit(t, next, set(1, "roles", "targets", "threshold")), trust.ErrSignature},
		{"a stranger's signature", w.imageRoot, forge[trust.RootRole](t, next, nothing, w.rootKeys[0], newKey(t)), trust.ErrSignature},
		{"the root in force", w.imageRoot, w.imageRoot, trust.ErrVersionRollback},
		{"a version skipped", w.imageRoot, forge[trust.RootRole](t, next, set(3, "version"), w.rootKeys[0]), trust.ErrVersionGap},
		{"the director's root", w.imageRoot, w.directorRoot, trust.ErrKind},
		{"another trust domain", w.imageRoot, forge[trust.RootRole](t, next, set("other.example.org", "groundswell", "trust_domain"), w.rootKeys[0]), trust.ErrTrustDomain},
		{"a threshold that nobody can meet", w.imageRoot, forge[trust.RootRole](t, next, set(4, "roles", "root", "threshold"), w.rootKeys[0]), trust.ErrMalformed},
		{"after a root without enough signatures", next, next, trust.ErrThreshold},
	} {
		if _, err := trust.CheckDraft(domain, trust.Image, test.old, test.raw); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

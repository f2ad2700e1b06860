package cluster

import (
	"errors"
	"regexp"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var legalToken = regexp.MustCompile(`^[A-Za-z0-9_=-]+$`)

func TestAnyClientIDIsASubjectToken(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := rapid.String().Draw(r, "a"), rapid.String().Draw(r, "b")
		text := token(a)
		if !legalToken.MatchString(text) {
			r.Fatalf("%q became %q", a, text)
		}
		if back, err := untoken(text); err != nil || back != a {
			r.Fatalf("%q became %q and came back as %q, %v", a, text, back, err)
		}
		if a != b && token(b) == text {
			r.Fatalf("%q and %q are both %q", a, b, text)
		}
	})
	for _, bad := range []string{"a=", "a=4", "=zz"} {
		if got, err := untoken(bad); err == nil {
			t.Errorf("%q is %q", bad, got)
		}
	}
}

func TestAClaimIsReplacedOnlyByWhoHasSeenIt(t *testing.T) {
	r := newTrio(t, nil)
	ctx := t.Context()
	if _, err := r.nodes[0].Lookup(ctx, "cam 1"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	first, err := r.nodes[0].Write(ctx, "cam 1", Claim{Node: "node-1", Connection: 1, Connected: true, State: []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.nodes[1].Write(ctx, "cam 1", Claim{Node: "node-2", Connection: 2, Connected: true}); !errors.Is(err, ErrTaken) {
		t.Errorf("a claim over one that was not seen: %v", err)
	}
	seen, err := r.nodes[1].Lookup(ctx, "cam 1")
	if err != nil || seen.Revision != first || seen.Node != "node-1" || string(seen.State) != `{"a":1}` {
		t.Fatalf("got %+v, %v", seen, err)
	}
	seen.Connected, seen.Expires = false, time.Now().Add(time.Hour)
	if _, err := r.nodes[1].Write(ctx, "cam 1", seen); err != nil {
		t.Fatal(err)
	}
	if _, err := r.nodes[0].Write(ctx, "cam 1", Claim{Node: "node-1", Connection: 3, Revision: first}); !errors.Is(err, ErrTaken) {
		t.Errorf("a claim over one that has changed: %v", err)
	}
	if other, err := r.nodes[2].Lookup(ctx, "cam-1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another client has it, too: %+v, %v", other, err)
	}
}

package trust

import (
	"fmt"
	"testing"
	"time"
)

// A root that was read once is in order for the trust domain and repository that it was
// read for, and for nothing else.
func TestParsedRootIsForItsPlaceOnly(t *testing.T) {
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	keys := RoleKeys{Threshold: 1, Keys: []PublicKey{key.Public()}}
	made := func(domain string) []byte {
		raw, err := InitRoot(RootSpec{TrustDomain: domain, Repository: Director, Expires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Root: keys, Targets: keys}, key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	p := parsedRoots{known: map[rootKey]root{}}
	raw := made("a.test")
	for range 2 {
		if _, err := p.root("a.test", Director, raw); err != nil {
			t.Fatal(err)
		}
		if _, err := p.root("b.test", Director, raw); err == nil {
			t.Error("taken for another trust domain")
		}
		if _, err := p.root("a.test", Image, raw); err == nil {
			t.Error("taken for another repository")
		}
		if _, err := p.root("a.test", Director, append(raw[:len(raw):len(raw)], ' ', 'x')); err == nil {
			t.Error("other bytes are taken")
		}
	}
	if len(p.known) != 1 {
		t.Errorf("%d roots are remembered", len(p.known))
	}
	for n := range 2 * maxParsed {
		domain := fmt.Sprintf("d%d.test", n)
		if _, err := p.root(domain, Director, made(domain)); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.known) > maxParsed {
		t.Errorf("%d roots are remembered, at most %d may be", len(p.known), maxParsed)
	}
}

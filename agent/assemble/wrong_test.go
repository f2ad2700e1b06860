package assemble

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"groundswell/agent/fetch"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/wake"
	"groundswell/certs"
)

// TestAWrongIndexOfAPeerCostsThatIndex: who sends it is not asked again.
func TestAWrongIndexOfAPeerCostsThatIndex(t *testing.T) {
	o := newOrigin(t)
	data := noise(10, 4<<20)
	a := o.release(data, false)
	var asked, blocks atomic.Int64
	liar := hostile(&asked, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/documents/") {
			blocks.Add(1)
		}
		_, _ = w.Write(make([]byte, a.Index.Length))
	})
	s := newSite(t, o, 2, func(ca *certs.CA) []string { return []string{peerstest.Serve(t, ca, "liar", liar)} })
	d := s.devices[1]
	for range 3 {
		if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) {
			t.Fatal(err)
		}
	}
	if asked.Load() != 1 || blocks.Load() != 0 {
		t.Errorf("it was asked %d times, for blocks %d times", asked.Load(), blocks.Load())
	}
	if _, err := os.Stat(d.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was begun: %v", err)
	}
	s.devices[0].must(a, data)
	if err := copies(d, o, a); err != nil {
		t.Errorf("another one has it: %v", err)
	}
	d.holds(data)
}

// TestAnIndexOfAnotherArtifactIsFollowedOnce: no source is asked for the artifact, and no
// peer again, but for blocks by another index.
func TestAnIndexOfAnotherArtifactIsFollowedOnce(t *testing.T) {
	o := newOrigin(t)
	other, data := noise(17, 1<<20), noise(18, 1<<20)
	right := o.release(data, false)
	a := o.release(other, false)
	a.SHA256 = right.SHA256
	s := newSite(t, o, 2, nil)
	peer, d := s.devices[0], s.devices[1]
	gives := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(peer.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		index := indexOf(t, data)
		peer.Peers.Join(a.SHA256, index, peer.path).Have(len(index.Blocks))
	}
	gives(other)
	n := &Nearby{Downloads: d.Downloads}
	for _, want := range [][]byte{other, nil} {
		if err := copiesBy(n, d, o, a); !errors.Is(err, wake.ErrSpent) || !errors.Is(err, fetch.ErrAnother) || errors.Is(err, fetch.ErrWrongBytes) {
			t.Errorf("the blocks make another artifact: %v", err)
		}
		d.holds(want)
		if err := os.Truncate(d.path, 0); err != nil { // it would have to come again
			t.Fatal(err)
		}
		if given := peer.Peers.Given(); given != a.Length+a.Index.Length {
			t.Errorf("%d bytes were given, of %d", given, a.Length+a.Index.Length)
		}
	}
	gives(data)
	if err := copiesBy(n, d, o, right); err != nil {
		t.Error(err)
	}
	d.holds(data)
}

// TestADiskThatSpoilsABlockIsNoWrongIndex: what is before the block stays, and peers are asked
// for the rest.
func TestADiskThatSpoilsABlockIsNoWrongIndex(t *testing.T) {
	o := newOrigin(t)
	data := noise(19, 1<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	s.devices[0].must(a, data)
	d := s.devices[1]
	n := &Nearby{Downloads: d.Downloads}
	if err := copiesBy(n, d, o, a); err != nil {
		t.Fatal(err)
	}
	index := indexOf(t, data)
	bad := bytes.Clone(data)
	bad[index.Blocks[len(index.Blocks)/2].Offset] ^= 1
	if err := os.WriteFile(d.path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.judge(d.path, a); !errors.Is(err, wake.ErrSpent) || errors.Is(err, fetch.ErrAnother) {
		t.Errorf("a spoilt block: %v", err)
	}
	d.holds(data[:index.Blocks[len(index.Blocks)/2].Offset])
	if err := copiesBy(n, d, o, a); err != nil {
		t.Error(err)
	}
	d.holds(data)
}

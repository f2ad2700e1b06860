package deploy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/condition"
	"groundswell/agent/peers/peerstest"
	"groundswell/topics"
)

// TestWhoMayNotDownloadGetsAllFromPeers: the budget is used up, a peer has it. Nothing comes
// over the internet, nothing counts, and the device never says that it waits.
func TestWhoMayNotDownloadGetsAllFromPeers(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	l.newPeer(addr[0]).fetch(l.artifact.Length)
	l.forget(nil)
	n := l.spent(addr...)
	before := n.journal.Snapshot().Usage
	n.begins()
	n.fetched()
	if requests, _, _ := l.counted(); requests != 0 {
		t.Errorf("the origin was asked %d times: %v", requests, l.asked)
	}
	if got := n.dep.Transfer; got.Peer != l.artifact.Length+l.artifact.Index.Length || got.Received() != got.Peer {
		t.Errorf("%+v", got)
	}
	if after := n.journal.Snapshot().Usage; after != before {
		t.Errorf("it counts: %+v, before %+v", after, before)
	}
	if list := n.said(); len(list) > 0 {
		t.Errorf("it says %+v", list)
	}
}

// TestWhoGetsAPartFromPeersWaitsWithIt, says so once, and fetches the rest when it may.
func TestWhoGetsAPartFromPeersWaitsWithIt(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	other := l.newPeer(addr[0])
	other.fetch(l.artifact.Length / 2)
	l.forget(nil)
	n := l.spent(addr...)
	n.begins()
	s := n.rests(allowance.ReasonBudget)[0]
	detail := fmt.Sprintf("8388608 bytes were used of 8388608 a day; %d of %d bytes are there, peers have sent %d", other.have, l.artifact.Length, other.have+l.artifact.Index.Length)
	if s.State != topics.StateDownloading || s.Detail != detail || s.DownloadedBytes != other.have || s.Until == nil || s.Until.Before(n.began) {
		t.Errorf("it says %+v, want %q", s, detail)
	}
	for range 3 { // it asks again and again
		n.Look(t.Context())
	}
	if requests, _, _ := l.counted(); requests != 0 || len(n.said()) != 1 {
		t.Errorf("the origin was asked %d times, it says %+v", requests, n.said())
	}
	n.tomorrow()
	n.fetched()
	_, index, sent := l.counted()
	if got := n.dep.Transfer; index != 0 || sent != l.artifact.Length-other.have || got.Full != sent || got.Peer != other.have+l.artifact.Index.Length {
		t.Errorf("the origin has sent %d bytes of %d, with %d there, and %d indexes: %+v", sent, l.artifact.Length, other.have, index, got)
	}
}

// TestWhatPeersHaveLaterIsTakenLater: the device asks again, and does not say so each time.
func TestWhatPeersHaveLaterIsTakenLater(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	other := l.newPeer(addr[0])
	n := l.spent(addr...)
	n.begins()
	if s := n.rests(allowance.ReasonBudget)[0]; s.DownloadedBytes != 0 || strings.Contains(s.Detail, "peers") {
		t.Errorf("it says %+v", s)
	}
	other.fetch(l.artifact.Length)
	l.forget(nil)
	n.fetched()
	if requests, _, _ := l.counted(); requests != 0 || len(n.said()) != 1 {
		t.Errorf("the origin was asked %d times, it says %+v", requests, n.said())
	}
}

// TestAPeerThatGivesAWrongIndexCostsIt, and the device waits until it may download.
func TestAPeerThatGivesAWrongIndexCostsIt(t *testing.T) {
	l := newLAN(t)
	var lists, indexes, blocks atomic.Int64
	liar := peerstest.Serve(t, l.ca, "liar", func(w http.ResponseWriter, r *http.Request) {
		digest := strings.TrimPrefix(r.URL.Path, "/documents/")
		for _, list := range []string{"/repository/image/1.snapshot.json", "/repository/image/1.targets.json"} {
			if its(l.files[list]) == digest {
				lists.Add(1)
				_, _ = w.Write(l.files[list])
				return
			}
		}
		switch {
		case digest == l.artifact.Index.SHA256:
			indexes.Add(1)
			_, _ = w.Write(bytes.Replace(l.index, []byte{l.index[len(l.index)-1]}, []byte{0}, 1))
		case strings.HasPrefix(r.URL.Path, "/blocks/"):
			blocks.Add(1)
		default:
			_, _ = w.Write([]byte(`{"have":1000}`))
		}
	})
	n := l.spent(liar)
	n.begins()
	s := n.rests(allowance.ReasonBudget)
	for range 3 {
		n.Look(t.Context())
	}
	if requests, _, _ := l.counted(); requests != 0 || lists.Load() != 2 || indexes.Load() != 1 || blocks.Load() != 0 {
		t.Errorf("the origin was asked %d times, the peer for %d lists, %d indexes, %d blocks", requests, lists.Load(), indexes.Load(), blocks.Load())
	}
	if len(s) != 1 || s[0].DownloadedBytes != 0 || strings.Contains(s[0].Detail, "peers") {
		t.Errorf("it says %+v", s)
	}
	n.tomorrow()
	n.fetched()
	if got := n.dep.Transfer; got.Peer != 0 || got.Full != l.artifact.Length {
		t.Errorf("%+v", got)
	}
	if s := n.status(topics.StateVerified); s.PeerFaults == nil || *s.PeerFaults != (topics.PeerFaults{Wrong: 1}) {
		t.Errorf("of its peer it says %+v", s.PeerFaults)
	}
}

// TestABusyOriginKeepsNobodyFromPeers: it gives neither the list of releases nor anything
// else, and wants to be left alone for an hour.
func TestABusyOriginKeepsNobodyFromPeers(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	l.newPeer(addr[0]).fetch(l.artifact.Length)
	l.forget(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	n := l.newNear(allowance.Config{}, condition.Config{}, nil, addr...)
	n.begins()
	n.fetched()
	if !n.dep.Unasked {
		t.Error("a source has said something about roots")
	}
	if requests, _, sent := l.counted(); requests != 2 || sent != 0 { // for a root, and for the index
		t.Errorf("the origin was asked %d times: %v", requests, l.asked)
	}
	if got := n.dep.Transfer; got.Peer != l.artifact.Length+l.artifact.Index.Length || got.Received() != got.Peer {
		t.Errorf("%+v", got)
	}
}

// TestWhatIsRememberedOfAHoldEndsWithIt: peers are asked again and again while it is not time
// to look at the hold, and by then the device may download.
func TestWhatIsRememberedOfAHoldEndsWithIt(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	other := l.newPeer(addr[0])
	other.fetch(l.artifact.Length / 2)
	l.forget(nil)
	n := l.spent(addr...)
	n.held = held{what: string(condition.Download) + " " + l.entry.Rollout, hold: condition.Hold{Reason: allowance.ReasonBudget, Again: time.Hour}, until: time.Now().Add(time.Hour)}
	n.tomorrow()
	n.begins()
	n.fetched()
}

// TestAnArtifactThatIsAnotherIsNotCountedAsThere: each of its blocks is as the index says, and
// the release was made with the index of something else. A source brings it nevertheless.
func TestAnArtifactThatIsAnotherIsNotCountedAsThere(t *testing.T) {
	other := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(other) // never fails
	l := newLANOf(t, other)
	files := map[string][]byte{its(l.index): l.index}
	for _, list := range []string{"/repository/image/1.snapshot.json", "/repository/image/1.targets.json"} {
		files[its(l.files[list])] = l.files[list]
	}
	for _, b := range l.blocks {
		block := other[b.Offset:][:b.Length]
		files[its(block)] = block
	}
	var blocks atomic.Int64
	has := peerstest.Serve(t, l.ca, "has-another", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			fmt.Fprintf(w, `{"have":%d}`, len(l.blocks))
			return
		}
		if strings.HasPrefix(r.URL.Path, "/blocks/") {
			blocks.Add(1)
		}
		file := files[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		_, _ = w.Write(file)
	})
	n := l.spent(has)
	n.begins()
	s := n.rests(allowance.ReasonBudget)[0]
	want := fmt.Sprintf("8388608 bytes were used of 8388608 a day; 0 of %d bytes are there, peers have sent %d, which make another artifact", l.artifact.Length, l.artifact.Length+l.artifact.Index.Length)
	if s.State != topics.StateDownloading || s.Detail != want || s.DownloadedBytes != 0 {
		t.Errorf("it says %+v, want %q", s, want)
	}
	for range 3 {
		n.Look(t.Context())
	}
	if requests, _, _ := l.counted(); requests != 0 || len(n.said()) != 1 || blocks.Load() != int64(len(l.blocks)) {
		t.Errorf("the origin was asked %d times, the peer for %d blocks of %d, it says %+v", requests, blocks.Load(), len(l.blocks), n.said())
	}
	n.tomorrow()
	n.fetched()
	if n.downloaded() != l.artifact.Length {
		t.Errorf("%d bytes are there", n.downloaded())
	}
}

// TestAWholeFileThatIsNotRightIsNotCountedAfterARestart: nobody is there who could say what it
// is.
func TestAWholeFileThatIsNotRightIsNotCountedAfterARestart(t *testing.T) {
	for name, c := range map[string]struct{ length, want int64 }{
		"all of another artifact": {4 << 20, 0},
		"a part":                  {1 << 20, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			n := l.spent()
			if err := os.WriteFile(n.slots.path, make([]byte, c.length), 0o600); err != nil {
				t.Fatal(err)
			}
			n.begins()
			if s := n.rests(allowance.ReasonBudget)[0]; s.DownloadedBytes != c.want || s.Bytes != l.artifact.Length {
				t.Errorf("it says %+v", s)
			}
		})
	}
}

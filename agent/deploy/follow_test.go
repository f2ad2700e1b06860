package deploy

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/peers/peerstest"
	"groundswell/internal/block"
	"groundswell/internal/devstack/devtest"
)

// dripping is a peer that makes the artifact, and gets one more block each time it is waited
// for, after a while. It is gone once the origin is asked.
type dripping struct {
	l     *lan
	index block.Index
	have  atomic.Int64 // blocks
}

func (l *lan) newDripping() (s *dripping, addr string) {
	l.t.Helper()
	index, err := block.Read(l.index, l.artifact.Length)
	if err != nil {
		l.t.Fatal(err)
	}
	s = &dripping{l: l, index: index}
	return s, peerstest.Serve(l.t, l.ca, "dripping", s.serve)
}

func (s *dripping) serve(w http.ResponseWriter, r *http.Request) {
	if requests, _, _ := s.l.counted(); requests > 0 {
		http.NotFound(w, r)
		return
	}
	kind, digest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if kind == "artifacts" {
		if r.Header.Get("Prefer") != "" && s.have.Load() < int64(len(s.index.Blocks)) {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(300 * time.Millisecond):
			}
			s.have.Add(1)
		}
		_, _ = fmt.Fprintf(w, `{"have":%d,"making":true}`, s.have.Load())
		return
	}
	for _, data := range s.l.files {
		if its(data) == digest && kind == "documents" {
			_, _ = w.Write(data)
			return
		}
	}
	for _, b := range s.index.Blocks {
		if hex.EncodeToString(b.SHA256[:]) == digest {
			w.Header().Set("Content-Length", strconv.Itoa(b.Length))
			_, _ = w.Write(s.l.data[b.Offset : b.Offset+int64(b.Length)])
			return
		}
	}
	http.NotFound(w, r)
}

// follows waits until the device has something of what the peer gets.
func (s *dripping) follows(n *near) {
	s.l.t.Helper()
	devtest.Eventually(s.l.t, devtest.Patience, "something to be copied", devtest.True(func() bool { return n.there() > 0 }))
}

// TestWhoMayDownloadWaitsForNobody: a peer gets on, slowly, and the budget is a new one.
func TestWhoMayDownloadWaitsForNobody(t *testing.T) {
	l := newLAN(t)
	other, addr := l.newDripping()
	n := l.spent(addr)
	n.begins()
	other.follows(n)
	n.tomorrow()
	n.fetched()
	if _, _, sent := l.counted(); sent == 0 || n.dep.Transfer.Peer == 0 {
		t.Errorf("the peer got %d blocks of %d; the origin has sent %d bytes: %+v", other.have.Load(), len(other.index.Blocks), sent, n.dep.Transfer)
	}
}

// TestWhoFollowsKeepsNobodyFromDownloading: another component gets its turn before the peer
// has all, and the device goes on with the peer afterwards.
func TestWhoFollowsKeepsNobodyFromDownloading(t *testing.T) {
	l := newLAN(t)
	other, addr := l.newDripping()
	n := l.spent(addr)
	n.begins()
	other.follows(n)
	had := l.artifact.Length
	err := n.device.fetch(t.Context(), func(context.Context, func(int64)) error { had = n.there(); return nil })
	if err != nil || had == l.artifact.Length {
		t.Errorf("%d bytes of %d were copied before another component had its turn: %v", had, l.artifact.Length, err)
	}
	other.have.Store(int64(len(other.index.Blocks)))
	n.fetched()
	if requests, _, _ := l.counted(); requests != 0 {
		t.Errorf("the origin was asked %d times", requests)
	}
}

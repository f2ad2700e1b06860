package peers_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
)

// TestWhoFollowsHasItsTurnOnlyWhenNobodyElseHas, whatever the order of the two is, and tells
// the others that it brings nothing.
func TestWhoFollowsHasItsTurnOnlyWhenNobodyElseHas(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	f := newFile(t, 1, 1<<20)
	other := peerstest.Serve(t, ca, "cam-2", func(w http.ResponseWriter, r *http.Request) {
		state := `{"have":0,"making":true}`
		if r.Header.Get("Prefer") != "" { // it is waited for
			state = `{"have":1,"making":true}`
		}
		_, _ = w.Write([]byte(state))
	})
	end := len(f.index.Blocks)
	for segment := range 8 { // in about half of them it would be this one's turn
		s := among(t, ca, other)
		share := s.Follow(f.name, f.index, f.path, 0)
		if !share.Ahead(t.Context(), 0, end, 0) || share.News(t.Context(), 0) {
			t.Error("the other one makes it, and has nothing yet")
		}
		if mine, err := share.Turn(t.Context(), segment, 0, end, 0); mine || err != nil {
			t.Errorf("segment %d: its turn is %v, %v", segment, mine, err)
		}
		if !share.Has(0) {
			t.Error("the other one has it")
		}
		c := asker(t, peerstest.TLS(t, ca, "cam-3"))
		status, body := get(t, c, s, "/artifacts/"+f.name, "Prefer", "wait=30")
		if status != http.StatusOK || !bytes.Equal(bytes.TrimSpace(body), []byte(`{"have":0}`)) {
			t.Errorf("it says %d %s", status, body)
		}
		share.Leave()
	}
	alone := among(t, ca)
	share := alone.Follow(f.name, f.index, f.path, 0)
	defer share.Leave()
	if mine, err := share.Turn(t.Context(), 0, 0, end, 0); !mine || err != nil || share.News(t.Context(), 0) || share.Ahead(t.Context(), 0, end, 0) {
		t.Errorf("without others, its turn is %v, %v", mine, err)
	}
}

// TestWhoIsFarBehindIsNotAhead: it would not be waited for. One that fetches what is missing,
// or is a little behind, is.
func TestWhoIsFarBehindIsNotAhead(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	f := newFile(t, 1, 4<<20)
	end := len(f.index.Blocks)
	for state, want := range map[string]bool{
		`{"have":0,"making":true}`:                                    false,
		fmt.Sprintf(`{"have":0,"making":true,"fetching":%d}`, end):    true,
		fmt.Sprintf(`{"have":%d,"making":true}`, end-9):               true,
		fmt.Sprintf(`{"have":%d,"making":true}`, end-10):              false,
		fmt.Sprintf(`{"have":%d}`, end-1):                             false,
		fmt.Sprintf(`{"have":%d}`, end):                               true,
		fmt.Sprintf(`{"have":%d,"making":false,"fetching":%d}`, 0, 1): false,
	} {
		s := among(t, ca, peerstest.Serve(t, ca, "cam-2", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(state)) }))
		share := s.Follow(f.name, f.index, f.path, end-1)
		if got := share.Ahead(t.Context(), end-3, end, end-1); got != want {
			t.Errorf("%s: ahead is %v", state, got)
		}
		share.Leave()
	}
}

// TestWhatWasGivenIsGivenWhenTheArtifactIsMadeAnew: a peer that was told of a block would
// hold it against this device that it is not there.
func TestWhatWasGivenIsGivenWhenTheArtifactIsMadeAnew(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	f := newFile(t, 2, 1<<20)
	s := among(t, ca)
	s.Join(f.name, f.index, f.path).Have(5)
	c := asker(t, peerstest.TLS(t, ca, "cam-3"))
	block := func(i int) int {
		status, _ := get(t, c, s, "/blocks/"+hex.EncodeToString(f.index.Blocks[i].SHA256[:]))
		return status
	}
	has := func(n int) {
		t.Helper()
		if _, body := get(t, c, s, "/artifacts/"+f.name); !strings.HasPrefix(string(body), fmt.Sprintf(`{"have":%d`, n)) {
			t.Errorf("it says %s, want %d", body, n)
		}
	}
	follow := func(have int) *peers.Share { return s.Follow(f.name, f.index, f.path, have) }
	for name, anew := range map[string]func() *peers.Share{"made": func() *peers.Share { return s.Join(f.name, f.index, f.path) }, "followed": func() *peers.Share { return follow(5) }} {
		share := anew()
		if got := block(4); got != http.StatusOK {
			t.Errorf("%s: block 4 gets %d", name, got)
		}
		has(5)
		share.Leave()
	}
	f.data[f.index.Blocks[2].Offset]++
	if err := os.WriteFile(f.path, f.data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := block(2); got != http.StatusGone {
		t.Errorf("block 2 is another one, and gets %d", got)
	}
	follow(5).Leave()
	has(2)
	s.Follow(f.name, f.index, f.path+".other", 3).Leave()
	has(3)
}

package peers_test

import (
	"bytes"
	"net/http"
	"testing"

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
		share := s.Follow(f.name, f.index, f.path)
		if !share.Ahead(t.Context(), 0) || share.News(t.Context(), 0) {
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
	share := alone.Follow(f.name, f.index, f.path)
	defer share.Leave()
	if mine, err := share.Turn(t.Context(), 0, 0, end, 0); !mine || err != nil || share.News(t.Context(), 0) || share.Ahead(t.Context(), 0) {
		t.Errorf("without others, its turn is %v, %v", mine, err)
	}
}

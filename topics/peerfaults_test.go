package topics

import (
	"encoding/json"
	"os"
	"testing"
)

func TestPeerFaultsAreBounded(t *testing.T) {
	raw, err := os.ReadFile("testdata/golden/status-1-peer-faults.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := DecodeStatus(raw)
	if err != nil || s.PeerFaults == nil || *s.PeerFaults != (PeerFaults{1, 2, 3}) {
		t.Fatalf("%+v: %v", s.PeerFaults, err)
	}
	const most = maxPeerFaults
	for _, good := range []PeerFaults{{}, {most, most, most}, PeerFaults{most, 1, most}.Plus(PeerFaults{1, most, most})} {
		s.PeerFaults = &good
		if err := s.Validate(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []PeerFaults{{Wrong: -1}, {Failed: -1}, {Away: -1}, {Wrong: most + 1}, {Failed: most + 1}, {Away: most + 1}} {
		s.PeerFaults = &bad
		mustRefuse(t, ErrInvalid, s.Validate)
		grown, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		mustRefuse(t, ErrInvalid, func() error { _, err := DecodeStatus(grown); return err })
	}
	if got := (PeerFaults{1, 2, 3}).Plus(PeerFaults{10, 20, 30}); got != (PeerFaults{11, 22, 33}) {
		t.Errorf("%+v", got)
	}
}

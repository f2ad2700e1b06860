package topics

// PeerFaults counts what went wrong with other devices of a site, while one asked them for
// an artifact. Whoever was busy, or has said that it does not have something, is none.
type PeerFaults struct {
	// Wrong are blocks and documents that were not what was asked for; who sends one is
	// asked for nothing more.
	Wrong int64 `json:"wrong,omitempty"`
	// Failed is how often one did not deliver, or not in time, and was passed over for a
	// while.
	Failed int64 `json:"failed,omitempty"`
	// Away is how often no device was where one is listed or was announced. Anybody on the
	// LAN may announce one.
	Away int64 `json:"away,omitempty"`
}

// maxPeerFaults is the largest number that is told, and believed; more are as many.
const maxPeerFaults = 1_000_000

// Plus is f and other together.
func (f PeerFaults) Plus(other PeerFaults) PeerFaults {
	return PeerFaults{
		Wrong: min(f.Wrong+other.Wrong, maxPeerFaults), Failed: min(f.Failed+other.Failed, maxPeerFaults),
		Away: min(f.Away+other.Away, maxPeerFaults),
	}
}

func (f PeerFaults) validate(field string) error {
	for _, part := range []struct {
		name string
		n    int64
	}{{"wrong", f.Wrong}, {"failed", f.Failed}, {"away", f.Away}} {
		if part.n < 0 || part.n > maxPeerFaults {
			return invalid(field+"."+part.name, "must be from 0 to %d", maxPeerFaults)
		}
	}
	return nil
}

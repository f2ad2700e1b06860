package fleet

import "groundswell/topics"

// TransferSum is where the bytes came from that the devices of a rollout got, as they
// reported it, each attempt for itself. (The attempts of a device that was told to try
// again begin with 1 anew, and take the place of those before, unless the rows of the
// rollout were summed meanwhile: see docs/artifacts.md.)
type TransferSum struct {
	Region  string // of the devices; in a sum over all: absent
	Devices int64  // that reported any
	topics.Transfer
	// Saved is by how much less was received than the artifact has, by those who got
	// it whole and took some of it from a delta. What was sent twice can make it
	// negative.
	Saved int64
}

// Origin is what was received of this fleet's servers, or of a cache before them.
func (t TransferSum) Origin() int64 { return t.Received() - t.Peer }

// Add adds other to t; the region stays.
func (t TransferSum) Add(other TransferSum) TransferSum {
	t.Devices += other.Devices
	t.Local += other.Local
	t.Delta += other.Delta
	t.Packed += other.Packed
	t.Full += other.Full
	t.Peer += other.Peer
	t.Index += other.Index
	t.Saved += other.Saved
	return t
}

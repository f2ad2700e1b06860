package store_test

import (
	"fmt"
	"math"
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// bytes is a report with where the bytes came from.
func (w *world) bytes(device, rollout string, state topics.State, attempt int, sequence int64, t topics.Transfer) store.UplinkRecord {
	r := w.Status(device, rollout, state, attempt, sequence)
	s := must(topics.DecodeStatus(r.Payload))
	s.Transfer = &t
	r.Payload = must(topics.Encode(s))
	return r
}

func TestBytesAreSummedByWhereTheyCameFromAndRegion(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(5)
	for _, id := range ids[3:] {
		w.Exec(`UPDATE device SET region = 'eu' WHERE id = '` + id + `'`)
	}
	r := w.Running(fleet.PolicySpec{Waves: []fleet.WaveSpec{{Percent: 100}}}) // an artifact of 100 bytes
	sums := func() string {
		text := ""
		for _, s := range must(w.Rollout(t.Context(), r.ID)).Transfers {
			text += fmt.Sprintf("%q %d: %+v saved %d; ", s.Region, s.Devices, s.Transfer, s.Saved)
		}
		return text
	}
	if got := sums(); got != "" {
		t.Errorf("before any report: %s", got)
	}
	first := topics.Transfer{Local: 20, Delta: 10, Index: 1}
	stranger := w.bytes("stranger", r.ID, topics.StateVerified, 1, 3, first)
	stranger.Model = "m2" // in no cohort of the rollout
	w.Apply(
		w.bytes(ids[0], r.ID, topics.StateVerified, 1, 3, first),
		w.Status(ids[0], r.ID, topics.StateTrying, 1, 4),                           // says nothing of bytes
		w.bytes(ids[1], r.ID, topics.StateFailed, 1, 3, topics.Transfer{Delta: 5}), // it did not get it
		w.bytes(ids[3], r.ID, topics.StateCommitted, 1, 3, topics.Transfer{Full: 100}),
		w.Status(ids[4], r.ID, topics.StateVerified, 1, 3), // an older agent
		stranger,
	)
	const one = `"" 2: {Local:20 Delta:15 Packed:0 Full:0 Peer:0 Index:1} saved 89; "eu" 1: {Local:0 Delta:0 Packed:0 Full:100 Peer:0 Index:0} saved 0; `
	if got := sums(); got != one {
		t.Errorf("got  %s\nwant %s", got, one)
	}
	// Again, late, and newer, in one batch and in several.
	newer := w.bytes(ids[0], r.ID, topics.StateRolledBack, 1, 6, topics.Transfer{Local: 20, Delta: 10, Packed: 4, Peer: 2, Index: 1})
	late := w.bytes(ids[0], r.ID, topics.StateDownloading, 1, 2, topics.Transfer{Delta: 90})
	w.Apply(newer, late)
	w.Apply(w.bytes(ids[0], r.ID, topics.StateVerified, 1, 3, first), late, newer)
	w.Apply(late)
	// The second attempt of one who failed counts beside its first.
	w.Apply(w.bytes(ids[1], r.ID, topics.StateFailed, 2, 8, topics.Transfer{Delta: 30, Index: 1}), w.bytes(ids[1], r.ID, topics.StateVerified, 2, 7, topics.Transfer{Delta: 30}))
	const two = `"" 2: {Local:20 Delta:45 Packed:4 Full:0 Peer:2 Index:2} saved 152; "eu" 1: {Local:0 Delta:0 Packed:0 Full:100 Peer:0 Index:0} saved 0; `
	if got := sums(); got != two {
		t.Errorf("got  %s\nwant %s", got, two)
	}
	// Devices that lie cannot break the view.
	w.Exec(fmt.Sprintf(`UPDATE transfer SET local = %d, "full" = %d`, int64(math.MaxInt64), int64(math.MaxInt64)/2))
	if got := must(w.Rollout(t.Context(), r.ID)).Transfers; len(got) != 2 || got[0].Local != 1e18 {
		t.Errorf("got %+v", got)
	}
	w.Exec(`DELETE FROM device WHERE id = '` + ids[3] + `'`)
	if got := must(w.Rollout(t.Context(), r.ID)).Transfers; len(got) != 1 {
		t.Errorf("of a device that is gone: %+v", got)
	}
}

// TestWhatPeersDidWrongCountsOnce: with what ends an attempt, whenever and how often that
// comes, and for each attempt.
func TestWhatPeersDidWrongCountsOnce(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(2)
	r := w.Running(fleet.PolicySpec{Waves: []fleet.WaveSpec{{Percent: 100}}})
	report := func(device string, state topics.State, attempt int, sequence int64, f topics.PeerFaults) store.UplinkRecord {
		record := w.Status(device, r.ID, state, attempt, sequence)
		s := must(topics.DecodeStatus(record.Payload))
		s.PeerFaults = &f
		record.Payload = must(topics.Encode(s))
		return record
	}
	verified := report(ids[0], topics.StateVerified, 1, 3, topics.PeerFaults{Wrong: 1})
	failed := report(ids[0], topics.StateFailed, 1, 4, topics.PeerFaults{Wrong: 1, Failed: 2})
	again := report(ids[0], topics.StateCommitted, 2, 6, topics.PeerFaults{Away: 3})
	old := w.Status(ids[1], r.ID, topics.StateCommitted, 1, 6)
	var sum topics.PeerFaults
	for _, batch := range [][]store.UplinkRecord{{failed, verified, failed}, {again, failed}, {verified, again, old}} {
		for _, result := range w.Apply(batch...) {
			sum = sum.Plus(result.PeerFaults)
		}
	}
	if sum != (topics.PeerFaults{Wrong: 1, Failed: 2, Away: 3}) {
		t.Errorf("%+v", sum)
	}
}

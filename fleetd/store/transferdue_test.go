package store_test

import (
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// TestOfWhatIsOverForGoodNobodyIsWaitedFor: agents that are told to stop say that they wait,
// and begin nothing of it again.
func TestOfWhatIsOverForGoodNobodyIsWaitedFor(t *testing.T) {
	for state, rows := range map[string]int64{"completed": 0, "cancelled": 4, "reverting": 0, "reverted": 4} {
		t.Run(state, func(t *testing.T) {
			w := newWorld(t)
			ids := w.Seed(4)
			r := w.Running(everyone)
			w.Apply(
				w.bytes(ids[0], r.ID, topics.StateDownloading, 1, 3, topics.Transfer{Full: 40}),
				w.bytes(ids[1], r.ID, topics.StateTrying, 1, 3, topics.Transfer{Full: 100}), // and falls silent
				w.bytes(ids[2], r.ID, topics.StateDownloading, 1, 3, topics.Transfer{Full: 50}),
				w.bytes(ids[3], r.ID, topics.StateDownloading, 1, 3, topics.Transfer{Full: 60}),
			)
			w.cancelled(r)
			w.exec(`UPDATE rollout SET state = $1 WHERE id = $2`, state, r.ID)
			w.Apply(w.bytes(ids[0], r.ID, topics.StateWaiting, 1, 4, topics.Transfer{Full: 50}))
			w.exec(`DELETE FROM cohort_member WHERE device = $1`, ids[2])
			w.Apply(w.bytes(ids[2], r.ID, topics.StateWaiting, 2, 4, topics.Transfer{Full: 7}))
			w.aged("31 days")
			w.Apply(w.bytes(ids[3], r.ID, topics.StateWaiting, 1, 4, topics.Transfer{Full: 70})) // just now
			want := w.transfers(r.ID)
			if n := w.summed(w.Store, month, 3); n != rows {
				t.Errorf("%d rows are gone, want %d", n, rows)
			}
			w.sameTransfers("afterwards", r.ID, want)
		})
	}
}

// TestWhatIsSaidSinceADeviceLeftIsWaitedFor: its standing stands still then.
func TestWhatIsSaidSinceADeviceLeftIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(3)
	r := w.Running(everyone)
	for _, id := range ids {
		w.Apply(
			w.bytes(id, r.ID, topics.StateFailed, 1, 3, topics.Transfer{Full: 10}),
			w.bytes(id, r.ID, topics.StateFailed, 2, 4, topics.Transfer{Full: 10}),
		)
	}
	w.completed(r)
	w.aged("31 days")
	w.exec(`DELETE FROM cohort_member`)
	w.Apply(
		w.bytes(ids[0], r.ID, topics.StateWaiting, 3, 5, topics.Transfer{Full: 60}),
		afterReset(w.bytes(ids[1], r.ID, topics.StateWaiting, 1, 1, topics.Transfer{Full: 60})),
	)
	if n := w.summed(w.Store, month, 10); n != 2 {
		t.Errorf("%d rows are gone, want those of %s", n, ids[2])
	}
	w.Apply(
		w.bytes(ids[0], r.ID, topics.StateCommitted, 3, 6, topics.Transfer{Full: 100}),
		afterReset(w.bytes(ids[1], r.ID, topics.StateCommitted, 1, 2, topics.Transfer{Full: 100})),
	)
	w.sameTransfers("afterwards", r.ID, []fleet.TransferSum{{Devices: 3, Transfer: topics.Transfer{Full: 260}}})
}

// afterReset is a report as if of the device's second epoch.
func afterReset(report store.UplinkRecord) store.UplinkRecord {
	s := must(topics.DecodeStatus(report.Payload))
	s.Epoch = 2
	report.Payload = must(topics.Encode(s))
	return report
}

// TestAttemptsOfBeforeAFactoryResetAreOver: also those of higher numbers.
func TestAttemptsOfBeforeAFactoryResetAreOver(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(2)
	r := w.Running(everyone)
	for _, id := range ids {
		w.Apply(
			w.bytes(id, r.ID, topics.StateFailed, 1, 3, topics.Transfer{Full: 10}),
			w.bytes(id, r.ID, topics.StateDownloading, 2, 4, topics.Transfer{Full: 10}),
		)
	}
	w.Apply(
		afterReset(w.Status(ids[0], r.ID, topics.StateWaiting, 1, 1)), // with nothing yet
		afterReset(w.bytes(ids[1], r.ID, topics.StateCommitted, 1, 1, topics.Transfer{Full: 100})),
	)
	w.completed(r)
	w.aged("31 days")
	if n := w.summed(w.Store, month, 10); n != 5 {
		t.Errorf("%d rows are gone, want all", n)
	}
}

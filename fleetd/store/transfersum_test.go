package store_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// aged makes everything that was said, and every end, older.
func (w *world) aged(interval string) {
	w.t.Helper()
	w.exec(`UPDATE rollout SET finished_at = finished_at - $1::interval`, interval)
	w.exec(`UPDATE rollout_device SET reported_at = reported_at - $1::interval`, interval)
}

// month is how long rows are kept in these tests.
const month = 30 * 24 * time.Hour

// summed does a whole pass in batches of so many devices.
func (w *world) summed(s *store.Store, keep time.Duration, limit int) (rows int64) {
	w.t.Helper()
	for at := (store.SumPass{}); ; {
		next, n, err := s.SumTransfers(w.t.Context(), keep, at, limit)
		if err != nil {
			w.t.Fatal(err)
		}
		if rows += n; next == (store.SumPass{}) {
			return rows
		}
		at = next
	}
}

func (w *world) transfers(id string) []fleet.TransferSum {
	w.t.Helper()
	return must(w.Rollout(w.t.Context(), id)).Transfers
}

func (w *world) sameTransfers(when, id string, want []fleet.TransferSum) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.transfers(id)); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func (w *world) cancelled(r fleet.Rollout) {
	w.t.Helper()
	must(w.CancelRollout(w.t.Context(), alice, r.ID, must(w.Rollout(w.t.Context(), r.ID)).Revision, ""))
}

// completed is what the driver would come to.
func (w *world) completed(r fleet.Rollout) {
	w.t.Helper()
	w.exec(`UPDATE rollout SET state = 'completed', finished_at = clock_timestamp(), revision = revision + 1 WHERE id = $1`, r.ID)
}

var everyone = fleet.PolicySpec{Waves: []fleet.WaveSpec{{Percent: 100}}}

func TestARolloutLooksTheSameWhenItsRowsAreSummed(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(6)
	w.exec(`UPDATE device SET region = 'eu' WHERE id >= $1`, ids[3])
	r, other := w.Running(everyone), w.Running(everyone)
	partly := topics.Transfer{Local: 20, Delta: 10, Index: 1}
	w.Apply(
		w.bytes(ids[0], r.ID, topics.StateCommitted, 1, 3, partly),
		w.bytes(ids[1], r.ID, topics.StateFailed, 1, 3, topics.Transfer{Delta: 5}),
		w.bytes(ids[1], r.ID, topics.StateRolledBack, 2, 4, topics.Transfer{Delta: 130, Peer: 2}),
		w.bytes(ids[2], r.ID, topics.StateWaiting, 1, 3, topics.Transfer{Packed: 7}), // and falls silent
		w.bytes(ids[3], r.ID, topics.StateCommitted, 1, 3, topics.Transfer{Full: 100}),
		w.bytes(ids[4], r.ID, topics.StateCommitted, 1, 3, topics.Transfer{Delta: 50}),
		w.bytes(ids[5], r.ID, topics.StateFailed, 1, 3, topics.Transfer{Delta: 1}), // and waits, with nothing yet
		w.Status(ids[5], r.ID, topics.StateWaiting, 2, 4),
		w.bytes(ids[0], other.ID, topics.StateCommitted, 1, 5, partly),
	)
	w.exec(`UPDATE transfer SET local = 9e18, "full" = 9e18 WHERE rollout = $1 AND device = ANY($2)`, r.ID, ids[3:5]) // they lie
	want := w.transfers(r.ID)
	if len(want) != 2 || want[0].Devices != 3 || want[1].Devices != 3 || want[1].Local != 1e18 || want[1].Saved == 0 {
		t.Fatalf("%+v", want)
	}
	nothing := func(when string) {
		t.Helper()
		if n := w.summed(w.Store, month, 2); n != 0 {
			t.Errorf("%s: %d rows are gone", when, n)
		}
	}
	nothing("while it runs")
	w.completed(r)
	w.exec(`UPDATE rollout_device SET reported_at = reported_at - interval '31 days'`)
	nothing("just over")
	w.exec(`UPDATE rollout_device SET reported_at = reported_at + interval '31 days'`)
	w.exec(`UPDATE rollout SET finished_at = finished_at - interval '31 days'`)
	nothing("devices have just reported")
	w.exec(`UPDATE rollout_device SET reported_at = reported_at - interval '31 days' WHERE device >= $1`, ids[1])
	w.exec(`DELETE FROM cohort_member WHERE device = $1`, ids[4])
	w.exec(`UPDATE rollout SET state = 'reverting' WHERE id = $1`, r.ID)
	nothing("while it is reverted")
	w.exec(`UPDATE rollout SET state = 'completed' WHERE id = $1`, r.ID)
	if n := w.summed(w.Store, month, 2); n != 5 {
		t.Errorf("%d rows are gone, want those of %s (2), %s, %s and %s", n, ids[1], ids[3], ids[4], ids[5])
	}
	w.sameTransfers("some are summed", r.ID, want)
	w.exec(`UPDATE rollout_device SET reported_at = reported_at - interval '31 days'`)
	if n := w.summed(w.Store, month, 2); n != 1 {
		t.Errorf("%d rows are gone, want that of %s", n, ids[0])
	}
	w.sameTransfers("all are summed", r.ID, want)
	nothing("again")
	if n := w.number(`SELECT count(*) FROM transfer WHERE rollout = $1 AND device = $2`, r.ID, ids[2]); n != 1 {
		t.Errorf("%d rows of the device within an attempt", n)
	}
	if n := w.number(`SELECT count(*) FROM transfer WHERE rollout = $1`, other.ID); n != 1 {
		t.Errorf("%d rows of the rollout that runs", n)
	}
}

func TestADeviceThatReportsLateIsNeitherLostNorCountedTwice(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(4)
	r := w.Running(everyone)
	first := []store.UplinkRecord{
		w.bytes(ids[0], r.ID, topics.StateFailed, 1, 3, topics.Transfer{Full: 10}),
		w.bytes(ids[0], r.ID, topics.StateFailed, 2, 4, topics.Transfer{Full: 20}),
		w.bytes(ids[1], r.ID, topics.StateCommitted, 1, 3, topics.Transfer{Full: 100}),
		w.bytes(ids[2], r.ID, topics.StateWaiting, 1, 3, topics.Transfer{Full: 30}),
	}
	w.Apply(first...)
	w.completed(r)
	w.aged("31 days")
	if n := w.summed(w.Store, month, 10); n != 3 {
		t.Fatalf("%d rows are gone", n)
	}
	counted := func(when string, devices, full, rows int64) {
		t.Helper()
		for _, how := range []string{"", ", summed"} {
			w.sameTransfers(when+how, r.ID, []fleet.TransferSum{{Devices: devices, Transfer: topics.Transfer{Full: full}}})
			w.aged("31 days")
			if n := w.summed(w.Store, month, 1); how == "" && n != rows {
				t.Errorf("%s: %d rows are gone, want %d", when, n, rows)
			}
		}
	}
	w.Apply(first...)
	counted("all comes again", 3, 160, 0)
	w.Apply(w.bytes(ids[1], r.ID, topics.StateCommitted, 1, 9, topics.Transfer{Full: 101}))
	counted("more of a summed attempt", 3, 160, 0)
	w.Apply(w.bytes(ids[2], r.ID, topics.StateVerified, 1, 4, topics.Transfer{Full: 100}))
	counted("who fell silent goes on", 3, 230, 0)
	w.Apply(w.bytes(ids[2], r.ID, topics.StateCommitted, 1, 5, topics.Transfer{Full: 100}))
	counted("and ends", 3, 230, 1)
	w.Apply(w.bytes(ids[0], r.ID, topics.StateCommitted, 3, 5, topics.Transfer{Full: 100}))
	counted("another attempt", 3, 330, 1)
	w.Apply(w.bytes(ids[3], r.ID, topics.StateCommitted, 1, 3, topics.Transfer{Full: 100}))
	counted("the first report", 4, 430, 1)
	w.Apply(afterReset(w.bytes(ids[1], r.ID, topics.StateCommitted, 1, 1, topics.Transfer{Full: 100})))
	counted("after a factory reset", 4, 530, 1)
}

// TestAPassGoesOnWhereAnotherWasQuicker: it has seen rows of a rollout that are gone when
// it comes to them.
func TestAPassGoesOnWhereAnotherWasQuicker(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(1)
	first, second := w.Running(everyone), w.Running(everyone)
	for n, r := range []fleet.Rollout{first, second} {
		w.Apply(w.bytes(ids[0], r.ID, topics.StateCommitted, 1, int64(3+n), topics.Transfer{Full: 100}))
		w.completed(r)
	}
	w.aged("31 days")
	// Who looks at rows waits for the lock, with what it has seen by then.
	for _, query := range []string{
		`CREATE FUNCTION waits() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END'`,
		`ALTER TABLE transfer RENAME TO transfer_rows`,
		`CREATE VIEW transfer AS SELECT * FROM transfer_rows WHERE waits()`,
		`BEGIN`,
		`SELECT pg_advisory_xact_lock(1)`,
	} {
		w.exec(query)
	}
	var all sync.WaitGroup
	var next store.SumPass
	all.Go(func() {
		var n int64
		var err error
		if next, n, err = w.SumTransfers(t.Context(), month, store.SumPass{}, 10); n != 0 || err != nil {
			t.Errorf("%d rows, %v", n, err)
		}
	})
	w.awaitBlocked(1)
	w.exec(`DELETE FROM transfer_rows WHERE rollout = $1`, first.ID)
	w.exec(`COMMIT`)
	all.Wait()
	if next == (store.SumPass{}) {
		t.Fatal("the pass is over before it came to the second rollout")
	}
	if _, n, err := w.SumTransfers(t.Context(), month, next, 10); n != 1 || err != nil {
		t.Errorf("%d rows of the second rollout, %v", n, err)
	}
}

// TestWhoIsKilledWhileItSumsLeavesNothingHalfDone: within a batch and between two, and
// reports that come meanwhile wait for the outcome.
func TestWhoIsKilledWhileItSumsLeavesNothingHalfDone(t *testing.T) {
	for end, kill := range map[string]bool{"killed": true, "committed": false} {
		t.Run(end, func(t *testing.T) {
			w := newWorld(t)
			ids := w.Seed(4)
			r := w.Running(everyone)
			committed := func(id string, attempt int, sequence int64) store.UplinkRecord {
				return w.bytes(id, r.ID, topics.StateCommitted, attempt, sequence, topics.Transfer{Full: 100})
			}
			var first []store.UplinkRecord
			for _, id := range ids {
				first = append(first, committed(id, 1, 3))
			}
			w.Apply(first...)
			w.cancelled(r)
			w.aged("31 days")
			want := w.transfers(r.ID)
			at, n, err := w.SumTransfers(t.Context(), month, store.SumPass{}, 1)
			if err != nil || n != 1 {
				t.Fatal(n, err)
			}
			w.sameTransfers("after a batch", r.ID, want)
			w.exec(`DELETE FROM cohort_member`) // no device's standing is locked because it changes

			// The next has deleted its rows, and waits to add them.
			w.exec(`BEGIN`)
			w.exec(`SELECT FROM transfer_sum FOR UPDATE`)
			var all sync.WaitGroup
			all.Go(func() {
				_, n, err := w.SumTransfers(t.Context(), month, at, 2)
				if kill != (err != nil) || !kill && n != 2 {
					t.Errorf("%d rows, %v", n, err)
				}
			})
			w.awaitBlocked(1)
			pid := w.number(`SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
			w.sameTransfers("within a batch", r.ID, want)
			other := w.Open()
			all.Go(func() {
				if _, n, err := other.SumTransfers(t.Context(), month, store.SumPass{}, 4); err != nil || n != 1 {
					t.Errorf("another sums %d rows, %v; want that of %s", n, err, ids[3])
				}
			})
			w.awaitBlocked(2)
			all.Go(func() {
				if _, err := w.ApplyUplink(t.Context(), []store.UplinkRecord{first[1], committed(ids[2], 2, 4)}); err != nil {
					t.Error(err)
				}
			})
			w.awaitBlocked(3)
			if kill {
				w.exec(`SELECT pg_terminate_backend($1)`, pid)
			}
			w.exec(`COMMIT`)
			all.Wait()
			want[0].Full += 100
			w.sameTransfers("afterwards", r.ID, want)
			w.aged("31 days")
			w.summed(w.Open(), month, 1)
			w.sameTransfers("another has gone on", r.ID, want)
			if n := w.number(`SELECT count(*) FROM transfer`); n != 0 {
				t.Errorf("%d rows are left", n)
			}
		})
	}
}

func TestTwoThatSumAtOnceWhileDevicesReport(t *testing.T) {
	const devices, attempts = 60, 4
	w := newWorld(t)
	ids := w.Seed(devices)
	for i, id := range ids {
		w.exec(`UPDATE device SET region = $1 WHERE id = $2`, []string{"eu", "us", ""}[i%3], id)
	}
	r := w.Running(everyone)
	// Each of an attempt's reports comes twice; the newer tells of more.
	var batches [][]store.UplinkRecord
	for attempt := 1; attempt <= attempts; attempt++ {
		var batch []store.UplinkRecord
		for _, id := range ids {
			sequence := int64(10 * attempt)
			last := w.bytes(id, r.ID, topics.StateFailed, attempt, sequence+1, topics.Transfer{Full: 100})
			batch = append(batch, w.bytes(id, r.ID, topics.StateVerified, attempt, sequence, topics.Transfer{Full: 60}), last)
		}
		for range 2 {
			batches = append(batches, batch)
		}
	}
	w.Apply(batches[0]...)
	w.completed(r)
	reported := make(chan struct{})
	var reporters, sums sync.WaitGroup
	for _, s := range []*store.Store{w.Open(), w.Open()} {
		reporters.Go(func() {
			for _, batch := range batches {
				for len(batch) > 0 {
					n := min(len(batch), 1+rand.IntN(20))
					if _, err := s.ApplyUplink(t.Context(), batch[:n]); err != nil {
						t.Error(err)
					}
					batch = batch[n:]
				}
			}
		})
	}
	var mu sync.Mutex
	rows := int64(0)
	for _, s := range []*store.Store{w.Open(), w.Open()} {
		sums.Go(func() {
			for done := false; !done; {
				select {
				case <-reported:
					done = true // once more
				default:
				}
				n := w.summed(s, time.Microsecond, 7)
				mu.Lock()
				rows += n
				mu.Unlock()
			}
		})
	}
	reporters.Wait()
	close(reported)
	sums.Wait()
	rows += w.summed(w.Store, time.Microsecond, 7) // whom one skipped because the other looked at it
	if rows != devices*attempts {
		t.Errorf("%d rows were summed, want %d", rows, devices*attempts)
	}
	var want []fleet.TransferSum
	for _, region := range []string{"", "eu", "us"} {
		want = append(want, fleet.TransferSum{Region: region, Devices: devices / 3, Transfer: topics.Transfer{Full: devices / 3 * attempts * 100}})
	}
	w.sameTransfers(fmt.Sprint(rows, " rows summed"), r.ID, want)
}

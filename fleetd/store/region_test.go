package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/migrations"
	"groundswell/topics"
)

// waiting is what is in the outbox of a region, as kind and id.
func (w *world) waiting(region string) (out []string) {
	w.t.Helper()
	kinds := []topics.Kind{topics.KindManifest, topics.KindAssignment, topics.KindCommand}
	for _, row := range must(w.ClaimOutbox(w.t.Context(), region, kinds, 10_000, 0)) {
		if row.Region != region || len(row.Payload) == 0 {
			w.t.Errorf("got %+v", row)
		}
		out = append(out, string(row.Kind)+" "+row.ID)
	}
	slices.Sort(out)
	return out
}

func TestEachRegionHasARowOfItsOwn(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(2)
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	before := []string{"assignment cam-00000", "assignment cam-00001", "manifest all"}
	if got := w.waiting("us"); got != nil {
		t.Errorf("a region that there is not has %v", got)
	}

	// A region that is added gets what was signed before it, once.
	for range 2 {
		w.Open(store.DefaultRegion, "us")
		if got := w.waiting("us"); !slices.Equal(got, before) {
			t.Errorf("the new region has %v", got)
		}
		for _, kind := range []topics.Kind{topics.KindManifest, topics.KindAssignment} {
			rows := must(w.ClaimOutbox(ctx, "us", []topics.Kind{kind}, 10, time.Minute))
			if err := w.Published(ctx, rows...); err != nil {
				t.Fatal(err)
			}
		}
		before = nil
	}
	if got := w.waiting(store.DefaultRegion); len(got) != 3 {
		t.Errorf("an acknowledgement of one region left %v to the other", got)
	}

	// What is new goes to both, also from a replica that has not heard of one.
	w.Running(fleet.PolicySpec{})
	must(w.CreateCommand(ctx, alice, "cam-00000", topics.CommandReport, "", time.Hour))
	if got := w.waiting("us"); len(got) != 2 || got[1] != "manifest all" {
		t.Errorf("the new region has %v", got)
	}
	rows := must(w.ClaimOutbox(ctx, "us", []topics.Kind{topics.KindManifest}, 10, time.Minute))
	if err := w.NotPublished(ctx, rows[0], time.Hour, "region us cannot be reached"); err != nil {
		t.Fatal(err)
	}
	if got := w.waiting(store.DefaultRegion); len(got) != 4 {
		t.Errorf("a failure in one region left %v to the other", got)
	}
	stats := must(w.Stats(ctx))
	if us := stats.Regions["us"]; us.Pending != 2 || us.Oldest <= 0 || stats.Regions[store.DefaultRegion].Pending != 4 || stats.Outbox.Pending != 6 {
		t.Errorf("got %+v", stats)
	}

	// Retired, it gets nothing more; named again, it gets everything.
	w.exec(`UPDATE region SET retired_at = now() WHERE name = 'us'`)
	w.exec(`DELETE FROM outbox WHERE region = 'us'`)
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "more", Selector: "model=m1"}))
	if got := w.waiting("us"); got != nil {
		t.Errorf("a retired region has %v", got)
	}
	w.Open("us")
	if got := w.waiting("us"); len(got) != 4 {
		t.Errorf("a region that is back has %v", got)
	}
}

// TestARegionAddedAmidChangesMissesNone: a change that is under way while a region is
// added, and did not know of it, is in its outbox afterwards.
func TestARegionAddedAmidChangesMissesNone(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	w.exec(`BEGIN`)
	w.exec(`LOCK TABLE audit IN SHARE MODE`) // where a change ends
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}); err != nil {
			t.Error(err)
		}
	})
	w.awaitBlocked(1)
	all.Go(func() {
		s, err := store.Open(t.Context(), store.Options{URL: w.URL, TrustDomain: storetest.TrustDomain, Signer: w.Signer, Regions: []string{"us"}})
		if err != nil {
			t.Error(err)
			return
		}
		s.Close()
	})
	w.awaitBlocked(2) // the region waits for the change
	w.exec(`COMMIT`)
	all.Wait()
	if got := w.waiting("us"); !slices.Contains(got, "manifest all") {
		t.Errorf("the new region has %v", got)
	}
}

// TestMessagesOfTwoRegionsAreTwo: shards and sequences begin anew in each region.
func TestMessagesOfTwoRegionsAreTwo(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	refusal := w.refused("cam-00000", topics.RefusedPublish, topics.DeviceStatus("cam-9"))
	letter := w.Uplink(topics.DeviceStatus("cam-00000"), "m1", []byte("no JSON"))
	for _, region := range []string{"", store.DefaultRegion, "us", "us"} {
		refusal.Region, letter.Region = region, region
		w.Apply(refusal, letter)
	}
	entries, _, err := w.Audit(t.Context(), store.AuditFilter{Object: "device/cam-00000", Actor: "broker"}, store.Page{})
	if err != nil || len(entries) != 2 {
		t.Errorf("%d audit rows, %v; want one of each region", len(entries), err)
	}
	letters, _, err := w.DeadLetters(t.Context(), store.Page{})
	if err != nil || len(letters) != 2 {
		t.Errorf("%d dead letters, %v; want one of each region", len(letters), err)
	}
}

// TestADatabaseOfOneRegionGoesOn: what waited before there were regions waits
// afterwards, for the region that it was for.
func TestADatabaseOfOneRegionGoesOn(t *testing.T) {
	w := newWorld(t)
	w.Seed(2)
	before := w.waiting(store.DefaultRegion)
	for _, later := range []string{`ALTER TABLE release DROP COLUMN requires, DROP COLUMN index_length, DROP COLUMN index_sha256`, `ALTER TABLE rollout DROP COLUMN deltas_at`,
		`DROP TABLE delta, delta_index, transfer, transfer_sum`, `ALTER TABLE rollout_device DROP COLUMN summed_epoch, DROP COLUMN summed_attempt`} {
		w.exec(later)
	}
	w.exec(`DROP TABLE region`)
	w.exec(`ALTER TABLE dead_letter DROP CONSTRAINT dead_letter_once, DROP COLUMN region, ADD CONSTRAINT dead_letter_once UNIQUE (consumer, shard, sequence)`)
	w.exec(`UPDATE schema_version SET version = 3`)
	if _, err := migrations.Apply(t.Context(), w.URL); err != nil {
		t.Fatal(err)
	}
	w.Open()
	if after := w.waiting(store.DefaultRegion); len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("%v waited before, %v afterwards", before, after)
	}
	storetest.Must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	if got := w.waiting(store.DefaultRegion); !slices.Contains(got, "manifest all") {
		t.Errorf("a change afterwards: %v", got)
	}
}

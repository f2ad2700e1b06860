package publish_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/publish"
	"groundswell/fleetd/store/storetest"
	"groundswell/topics"
)

// Of rollouts whose entries are large, eight that are over leave no room for
// one that runs.
func TestALongHistoryMakesRoomInTheManifest(t *testing.T) {
	t.Parallel()
	w := storetest.New(t, publish.NewSigner(storetest.Must(trust.GenerateKey())))
	ctx := t.Context()
	w.Seed(1)
	entries := func() []topics.Entry {
		t.Helper()
		raw, _, err := w.CohortManifest(ctx, "all")
		if err != nil || len(raw) > topics.MaxManifest {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		var m struct {
			Signed struct {
				Body topics.Manifest `json:"groundswell"`
			} `json:"signed"`
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		return m.Signed.Body.Entries
	}
	policy := fleet.PolicySpec{Waves: storetest.Waves(100)}
	for range topics.MaxWindows {
		policy.Windows = append(policy.Windows, topics.Window{Days: []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}, Start: "01:00", End: "02:00"})
	}
	models := []string{"m1"}
	for n := range 20 {
		models = append(models, fmt.Sprintf("model-of-a-rather-long-name-%d", n))
	}
	w.AddRelease("1.1.0", models...)
	lease := storetest.Must(w.AcquireLease(ctx, "driver", "t", time.Hour))
	var last fleet.Rollout
	for range fleet.MaxCompleted {
		r := w.Running(policy)
		last = storetest.Must(w.CompleteRollout(ctx, lease, r.ID, r.Revision, ""))
	}
	r := w.Running(policy)
	if got := entries(); len(got) < 2 || len(got) > fleet.MaxCompleted || got[0].Rollout != r.ID || got[1].Rollout != last.ID {
		t.Fatalf("%d entries", len(got))
	}
	// What runs is never left out: what does not fit then is refused, with what
	// to do about it.
	for n := 2; ; n++ {
		d := storetest.Must(w.CreateRollout(ctx, storetest.Alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, PolicySpec: policy}))
		_, err := w.StartRollout(ctx, storetest.Alice, d.ID, d.Revision, "")
		if err == nil && n < 100 {
			continue
		}
		if !errors.Is(err, fleet.ErrConflict) {
			t.Fatalf("got %v", err)
		}
		running := 0
		for _, e := range entries() {
			if e.State == topics.EntryRunning {
				running++
			}
		}
		if running != n-1 {
			t.Errorf("%d of %d that run", running, n-1)
		}
		return
	}
}

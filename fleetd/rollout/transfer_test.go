package rollout_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/rollout"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/ops"
	"groundswell/topics"
)

func TestTheDriverSumsTheBytesOfWhatIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		keep   time.Duration
		summed string
	}{
		"after an hour": {time.Hour, "2"},
		"after a day":   {24 * time.Hour, "0"},
		"never":         {0, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1)
			metrics := ops.NewRegistry()
			f.Driver = rollout.New(rollout.Config{Store: f.Store, Tick: time.Millisecond, KeepTransfers: c.keep, Metrics: metrics})
			var ids []string
			for n := range int64(2) { // a batch for each
				r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
				report := f.Status(f.ids[0], r.ID, topics.StateCommitted, 1, 2+n)
				s := storetest.Must(topics.DecodeStatus(report.Payload))
				s.Transfer = &topics.Transfer{Full: 100}
				report.Payload = storetest.Must(topics.Encode(s))
				f.Apply(report)
				storetest.Must(f.CancelRollout(t.Context(), storetest.Alice, r.ID, f.now(r.ID).Revision, ""))
				ids = append(ids, r.ID)
			}
			f.Exec(`UPDATE rollout SET finished_at = finished_at - interval '2 hours'; UPDATE rollout_device SET reported_at = reported_at - interval '2 hours'`)
			sums := func() (all []fleet.TransferSum) {
				for _, id := range ids {
					all = append(all, f.now(id).Transfers...)
				}
				return all
			}
			before := sums()
			for range 3 {
				f.tick()
			}
			scrape := httptest.NewRecorder()
			metrics.Handler().ServeHTTP(scrape, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
			if want := "\ngroundswell_transfers_summed_total " + c.summed + "\n"; !strings.Contains(scrape.Body.String(), want) {
				t.Errorf("the metrics lack %q:\n%s", want, scrape.Body)
			}
			if diff := cmp.Diff(before, sums()); diff != "" || len(before) != 2 {
				t.Errorf("the sums (-before +after): %s", diff)
			}
		})
	}
}

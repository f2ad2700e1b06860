package rollout_test

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/rollout"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// overWithBytes makes a rollout that has been over for two hours, with a row. Its report
// has that sequence.
func (f *fixture) overWithBytes(sequence int64) string {
	f.T.Helper()
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	report := f.Status(f.ids[0], r.ID, topics.StateCommitted, 1, sequence)
	s := storetest.Must(topics.DecodeStatus(report.Payload))
	s.Transfer = &topics.Transfer{Full: 100}
	report.Payload = storetest.Must(topics.Encode(s))
	f.Apply(report)
	storetest.Must(f.CancelRollout(f.T.Context(), storetest.Alice, r.ID, f.now(r.ID).Revision, ""))
	f.Exec(`UPDATE rollout SET finished_at = finished_at - interval '2 hours'; UPDATE rollout_device SET reported_at = reported_at - interval '2 hours'`)
	return r.ID
}

func (f *fixture) hasSummed(metrics *ops.Registry, rows string) {
	f.T.Helper()
	scrape := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(scrape, httptest.NewRequestWithContext(f.T.Context(), "GET", "/metrics", nil))
	if want := "\ngroundswell_transfers_summed_total " + rows + "\n"; !strings.Contains(scrape.Body.String(), want) {
		f.T.Errorf("the metrics lack %q:\n%s", want, scrape.Body)
	}
}

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
				ids = append(ids, f.overWithBytes(2+n))
			}
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
			f.hasSummed(metrics, c.summed)
			if diff := cmp.Diff(before, sums()); diff != "" || len(before) != 2 {
				t.Errorf("the sums (-before +after): %s", diff)
			}
		})
	}
}

// TestTheDriverRestsBetweenTwoPasses: looking over all rollouts costs too much for each tick.
func TestTheDriverRestsBetweenTwoPasses(t *testing.T) {
	f := newFixture(t, 1)
	metrics := ops.NewRegistry()
	f.Driver = rollout.New(rollout.Config{Store: f.Store, Tick: time.Millisecond, KeepTransfers: time.Hour, Metrics: metrics})
	f.overWithBytes(2)
	for range 2 { // the second finds the end
		f.tick()
	}
	f.overWithBytes(3)
	f.tick()
	f.hasSummed(metrics, "1")
	if _, n, err := f.SumTransfers(t.Context(), time.Hour, store.SumPass{}, 10); n != 1 || err != nil {
		t.Errorf("another pass would have found %d rows, %v", n, err)
	}
}

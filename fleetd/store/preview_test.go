package store_test

import (
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store/storetest"
	"groundswell/topics"
)

// TestAPreviewCountsWhoIsDone: a rollout that ends at a half costs nothing more when it has moved
// that half. Who had the version by other means is not of it.
func TestAPreviewCountsWhoIsDone(t *testing.T) {
	w := storetest.New(t, nil)
	ids := w.Seed(20)
	r := w.Running(fleet.PolicySpec{Waves: []fleet.WaveSpec{{Percent: 50}}})
	want := func(devices, bytes int64) {
		t.Helper()
		p := fleet.NewPreview(storetest.Must(w.PreviewRollout(t.Context(), r.ID)))
		if p.Devices != devices || p.Bytes != bytes {
			t.Errorf("%d devices, %d bytes; want %d, %d", p.Devices, p.Bytes, devices, bytes)
		}
	}
	want(20, 1000)
	for i, id := range ids[:10] {
		w.Apply(w.Status(id, r.ID, topics.StateCommitted, 1, 2), w.Beat(id, "m1", "1.1.0", 1, 3))
		if i == 5 {
			want(14, 400)
		}
	}
	want(10, 0)
	w.Apply(w.Beat(ids[19], "m1", "1.1.0", 1, 2))
	want(9, 0)
}

// TestADraftsPreviewTakesItsShareOfWhoIsLeft: who has the version already was not of it.
func TestADraftsPreviewTakesItsShareOfWhoIsLeft(t *testing.T) {
	w := storetest.New(t, nil)
	for _, id := range w.Seed(20)[:10] {
		w.Apply(w.Beat(id, "m1", "1.1.0", 1, 2))
	}
	r := w.Running(fleet.PolicySpec{Waves: []fleet.WaveSpec{{Percent: 50}}})
	if p := fleet.NewPreview(storetest.Must(w.PreviewRollout(t.Context(), r.ID))); p.Devices != 10 || p.Bytes != 500 {
		t.Errorf("%d devices, %d bytes", p.Devices, p.Bytes)
	}
}

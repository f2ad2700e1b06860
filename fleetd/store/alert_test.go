package store_test

import (
	"errors"
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// sent is the nonsense n of a device: each raises its alert once.
func (w *world) sent(device string, n int64) {
	w.T.Helper()
	w.Apply(store.UplinkRecord{Topic: topics.DeviceStatus(device), Payload: []byte("{"), Shard: 1, Sequence: n, Model: "m1", Hardware: "r1"})
}

func TestAlertsAreAcknowledgedAndCleared(t *testing.T) {
	w := newWorld(t)
	w.Seed(2)
	list := func(state store.AlertState) []store.Alert {
		t.Helper()
		alerts, _, err := w.Alerts(t.Context(), state, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		return alerts
	}
	open := func() int64 {
		t.Helper()
		return must(w.Stats(t.Context())).Alerts
	}
	w.sent("cam-00000", 1)
	seen := list("")[0]
	w.sent("cam-00001", 2)
	w.sent("cam-00000", 3)
	w.sent("cam-00000", 3) // the same again
	got := list(store.AlertOpen)
	if len(got) != 2 || open() != 2 || got[0].ID != seen.ID || got[0].Count != 2 || got[0].Revision != seen.Revision+1 || !got[0].AcknowledgedAt.IsZero() {
		t.Fatalf("got %+v", got)
	}
	// Who has not seen the newest sighting clears nothing.
	if err := w.ClearAlert(t.Context(), alice, seen.ID, seen.Revision); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("got %v", err)
	}
	if _, err := w.AcknowledgeAlert(t.Context(), alice, seen.ID, seen.Revision, ""); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("got %v", err)
	}
	var field *fleet.FieldError
	if _, err := w.AcknowledgeAlert(t.Context(), alice, seen.ID, seen.Revision+1, "a\x00b"); !errors.As(err, &field) || field.Pointer != "/note" {
		t.Errorf("got %v", err)
	}
	known := must(w.AcknowledgeAlert(t.Context(), alice, seen.ID, seen.Revision+1, "water damage"))
	if known.AcknowledgedBy != alice.Name || known.Note != "water damage" || known.AcknowledgedAt.IsZero() {
		t.Errorf("got %+v", known)
	}
	// It stays acknowledged when it is seen again.
	w.sent("cam-00000", 4)
	if got := list(store.AlertAcknowledged); len(got) != 1 || got[0].ID != seen.ID || got[0].Count != 3 || len(list(store.AlertOpen)) != 1 || open() != 1 {
		t.Errorf("got %+v", got)
	}
	last := must(w.Alert(t.Context(), seen.ID))
	if err := w.ClearAlert(t.Context(), alice, last.ID, last.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Alert(t.Context(), seen.ID); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	w.sent("cam-00000", 5)
	if got := list(store.AlertOpen); len(got) != 2 || got[0].ID == seen.ID || got[0].Count != 1 {
		t.Errorf("seen again it is a new one: %+v", got)
	}
	if _, _, err := w.Alerts(t.Context(), "closed", store.Page{}); !errors.As(err, &field) || field.Pointer != "/state" {
		t.Errorf("got %v", err)
	}
	for action, want := range map[string]int64{"alert.acknowledge": 1, "alert.clear": 1} {
		if n := w.number(`SELECT count(*) FROM audit WHERE action = $1 AND actor = $2 AND detail->>'about' = 'device/cam-00000'`, action, alice.Name); n != want {
			t.Errorf("%d audit rows of %s", n, action)
		}
	}
}

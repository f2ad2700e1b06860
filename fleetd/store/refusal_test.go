package store_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/store"
	"groundswell/topics"
)

func (w *world) refused(device string, action topics.RefusedAction, topic string) store.UplinkRecord {
	r := topics.Refusal{
		Schema: 1, Action: action, Topic: topic, Reason: "not-authorized", Detail: "may not " + string(action), Client: device,
		Node: "n1", At: time.Now().UTC().Truncate(time.Second),
	}
	return w.Uplink(topics.DeviceRefusal(device), "m1", must(topics.Encode(r)))
}

// TestWhatTheBrokerRefusedIsAuditedOnce: in the trail of the device whose
// certificate was shown, and among the alerts; however often, and to however
// many replicas, the record comes.
func TestWhatTheBrokerRefusedIsAuditedOnce(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	first := w.refused("cam-00000", topics.RefusedPublish, topics.DeviceStatus("cam-9"))
	second := w.refused("cam-00000", topics.RefusedSubscribe, "#")
	got := w.Apply(first, second, first)
	if got[0].Outcome != store.Applied || got[1].Outcome != store.Applied {
		t.Errorf("got %+v", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			results, err := w.ApplyUplink(t.Context(), []store.UplinkRecord{second, first})
			if err != nil || results[0].Outcome != store.Duplicate || results[1].Outcome != store.Duplicate {
				t.Errorf("on its second way: %+v, %v", results, err)
			}
		})
	}
	wg.Wait()

	entries, _, err := w.Audit(t.Context(), store.AuditFilter{Object: "device/cam-00000", Actor: "broker"}, store.Page{})
	if err != nil || len(entries) != 2 {
		t.Fatalf("got %+v, %v", entries, err)
	}
	if e := entries[1]; e.Action != "refused.publish" || !strings.Contains(string(e.Detail), topics.DeviceStatus("cam-9")) {
		t.Errorf("got %+v", e)
	}
	if e := entries[0]; e.Action != "refused.subscribe" {
		t.Errorf("got %+v", e)
	}
	alerts, _, err := w.Alerts(t.Context(), "", store.Page{})
	if err != nil || len(alerts) != 1 {
		t.Fatalf("got %+v, %v", alerts, err)
	}
	if a := alerts[0]; a.Kind != "refused" || a.Object != "device/cam-00000" || a.Count != 2 || !strings.Contains(a.Message, "may not subscribe") {
		t.Errorf("got %+v", a)
	}
}

package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// change is one successful call of an operation that changes something.
type change struct {
	operation string
	call      func() call
}

// changes calls every operation of the description that changes something, in
// an order in which all of them succeed.
func (w *world) changes() []change {
	var r api.Rollout // the newest rollout
	var image trust.ReleaseImage
	at := func(path string) []string { // the ETag in force
		return []string{"If-Match", w.must(200, nil, call{method: "GET", path: path}).header.Get("ETag")}
	}
	do := func(method, path string, body any, header ...string) func() call {
		return func() call { return call{method: method, path: path, body: body, header: header} }
	}
	step := func(action string, body any) func() call {
		return func() call {
			var list struct{ Items []api.Rollout }
			w.must(200, &list, call{method: "GET", path: "/v1/rollouts?limit=1"})
			r = list.Items[0]
			c := call{path: "/v1/rollouts/" + r.ID, method: "PATCH", body: body, header: match(r.Revision)}
			if action != "" {
				c.method, c.path = "POST", c.path+"/"+action
			}
			return c
		}
	}
	matched := func(method, path string, body any) func() call {
		return func() call { return call{method: method, path: path, body: body, header: at(path)} }
	}
	alert := func() string { // of a device that sent nonsense
		if _, err := w.store.ApplyUplink(w.t.Context(), []store.UplinkRecord{{Topic: topics.DeviceStatus("cam-1"), Payload: []byte("{"), Sequence: 1 << 40}}); err != nil {
			w.t.Fatal(err)
		}
		var list struct{ Items []api.Alert }
		w.must(200, &list, call{method: "GET", path: "/v1/alerts"})
		return fmt.Sprintf("/v1/alerts/%d", list.Items[0].ID)
	}
	rollout := do("POST", "/v1/rollouts", `{"release":{"name":"camera","version":"1.2.0"},"cohorts":["all"]}`)
	return []change{
		{"put-artifact", func() call {
			image = w.image("1.2.0", "firmware 1.2.0")
			return call{method: "PUT", path: "/v1/artifacts/" + image.SHA256, body: "firmware 1.2.0"}
		}},
		{"publish-releases", func() call {
			w.targets = w.sign(w.targets, w.releaseKeys, image)
			return publish(w.targets)
		}},
		{"publish-releases", func() call { // nothing new, it only lives longer
			w.targets = w.sign(w.targets, w.releaseKeys)
			return publish(w.targets)
		}},
		{"put-device", do("PUT", "/v1/devices/new-1", `{"region":"eu"}`)},
		{"put-device", matched("PUT", "/v1/devices/new-1", `{"region":"us"}`)},
		{"patch-device", matched("PATCH", "/v1/devices/new-1", `{"region":"eu"}`)},
		{"import-devices", do("POST", "/v1/devices/import", `{"devices":[{"id":"new-2"}]}`)},
		{"command-device", do("POST", "/v1/devices/cam-1/commands", `{"action":"report"}`)},
		{"create-cohort", do("POST", "/v1/cohorts", `{"name":"all","selector":"model=cam-a"}`)},
		{"create-cohort", do("POST", "/v1/cohorts", `{"name":"spare","devices":[]}`)},
		{"patch-cohort", matched("PATCH", "/v1/cohorts/spare", `{"description":"x"}`)},
		{"delete-cohort", matched("DELETE", "/v1/cohorts/spare", nil)},
		{"create-rollout", rollout},
		{"patch-rollout", step("", `{"note":"x"}`)},
		{"start-rollout", step("start", nil)},
		{"pause-rollout", step("pause", nil)},
		{"resume-rollout", step("resume", `{"reason":"x"}`)},
		{"revert-rollout", step("revert", `{"to":"1.0.0"}`)},
		{"create-rollout", rollout},
		{"cancel-rollout", step("cancel", nil)},
		{"acknowledge-alert", func() call {
			path := alert()
			return call{method: "POST", path: path + "/acknowledge", body: `{"note":"x"}`, header: at(path)}
		}},
		{"clear-alert", func() call {
			path := alert()
			return call{method: "DELETE", path: path, header: at(path)}
		}},
		{"rotate-root", func() call {
			root, err := trust.RotateRoot(w.imageRoot, w.imageSpec(), w.rootKey)
			if err != nil {
				w.t.Fatal(err)
			}
			return call{method: "PUT", path: "/v1/repository/image/root", body: b64("root_b64", root)}
		}},
	}
}

// Every operation that is not a GET is tried, whichever there are.
func TestEveryOperationThatChangesSomethingLeavesAnAuditRow(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(3)...)
	w.release("1.0.0")
	tried := map[string]bool{}
	for i, c := range w.changes() {
		request := fmt.Sprintf("change-%d", i)
		req := c.call()
		req.header = append(req.header, "X-Request-Id", request)
		if a := w.do(req); a.status/100 != 2 {
			t.Fatalf("%s: %s %s: %d %s", c.operation, req.method, req.path, a.status, a.raw)
		}
		tried[c.operation] = true
		var audit struct{ Items []api.AuditEntry }
		w.must(200, &audit, call{method: "GET", path: "/v1/audit?actor=alice&limit=10"})
		found := 0
		for _, e := range audit.Items {
			if e.RequestID == request && e.Action != "" && e.Object != "" {
				found++
			}
		}
		if found == 0 {
			t.Errorf("%s: no audit row of %s %s", c.operation, req.method, req.path)
		}
	}
	for id, c := range w.routes() {
		if (c.method != "GET") != tried[id] {
			t.Errorf("%s (%s %s): tried here: %v; what changes something belongs into changes()", id, c.method, c.path, tried[id])
		}
	}
}

// The rows say why, in the words of whoever did it.
func TestEveryStepOfARolloutKeepsItsReason(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(3)...)
	w.release("1.1.0")
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	var r api.Rollout
	w.must(201, &r, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"]}`})
	for _, step := range []string{"start", "pause", "resume", "cancel"} {
		why := "why " + step
		w.must(200, &r, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/" + step, header: match(r.Revision), body: map[string]string{"reason": why}})
		if r.Reason != why {
			t.Errorf("%s: the rollout says %q", step, r.Reason)
		}
		w.refused(422, "/reason", call{method: "POST", path: "/v1/rollouts/" + r.ID + "/" + step, header: match(r.Revision), body: map[string]string{"reason": "\x00"}})
	}
	var events struct{ Items []api.Event }
	w.must(200, &events, call{method: "GET", path: "/v1/rollouts/" + r.ID + "/events"})
	var reasons []string
	for _, e := range events.Items {
		var detail struct{ Reason string }
		if len(e.Detail) > 0 {
			if err := json.Unmarshal(e.Detail, &detail); err != nil {
				t.Fatal(err)
			}
		}
		if detail.Reason != "" {
			reasons = append(reasons, detail.Reason)
		}
	}
	if strings.Join(reasons, ", ") != "why start, why pause, why resume, why cancel" {
		t.Errorf("events: %q", reasons)
	}
}

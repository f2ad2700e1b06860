package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"groundswell/certs/token"
	"groundswell/fleetd/api"
)

// started makes a fleet of three, a release and a running rollout.
func (w *world) started() api.Rollout {
	w.t.Helper()
	w.report("cam-a", names(3)...)
	w.release("1.0.0")
	w.release("1.1.0")
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	var r api.Rollout
	a := w.must(201, &r, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"]}`, as: token.Operator})
	if a.header.Get("Location") != "/v1/rollouts/"+r.ID || a.header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(r.Revision)) || r.State != "draft" {
		w.t.Fatalf("created: %v %s", a.header, a.raw)
	}
	w.must(200, &r, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/start", header: match(r.Revision), as: token.Operator})
	if r.State != "running" || r.StartedAt == nil {
		w.t.Fatalf("started: %+v", r)
	}
	return r
}

func match(revision int64) []string {
	return []string{"If-Match", fmt.Sprintf("%q", fmt.Sprint(revision))}
}

func TestAChangeNeedsTheETagThatIsInForce(t *testing.T) {
	w := newWorld(t)
	r := w.started()
	pause := call{method: "POST", path: "/v1/rollouts/" + r.ID + "/pause", body: `{"reason":"looks wrong"}`}
	w.refused(428, "If-Match", pause)
	for _, bad := range []string{"*", `"x"`, `W/"2"`, "2", `"2", "3"`, `"0"`, `"-1"`, `""`} {
		pause.header = []string{"If-Match", bad}
		w.refused(412, "If-Match", pause)
	}
	pause.header = match(r.Revision - 1)
	w.refused(412, "", pause)
	pause.header = match(r.Revision)
	var paused api.Rollout
	w.must(200, &paused, pause)
	if paused.State != "paused" || paused.Reason != "looks wrong" || paused.Revision <= r.Revision {
		t.Errorf("paused: %+v", paused)
	}
	// With the right ETag, but in the wrong state.
	pause.header = match(paused.Revision)
	w.refused(409, "", pause)
	w.refused(409, "", call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"note":"x"}`, header: match(paused.Revision)})
	w.must(200, &paused, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/resume", header: match(paused.Revision)})
	w.must(200, &paused, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/cancel", header: match(paused.Revision), body: `{}`})
	if paused.State != "cancelled" {
		t.Errorf("cancelled: %+v", paused)
	}

	for _, body := range []string{`{"selector":null}`, `{"selector":""}`} {
		w.refused(422, "/selector", call{method: "PATCH", path: "/v1/cohorts/all", body: body, header: match(1)})
	}
	w.refused(428, "If-Match", call{method: "PATCH", path: "/v1/cohorts/all", body: `{"description":"x"}`})
	w.refused(428, "If-Match", call{method: "DELETE", path: "/v1/cohorts/all"})
	w.refused(409, "", call{method: "DELETE", path: "/v1/cohorts/all", header: match(1)})
	w.refused(428, "If-Match", call{method: "PATCH", path: "/v1/devices/cam-1", body: `{"region":"eu"}`})
	w.refused(428, "If-Match", call{method: "PUT", path: "/v1/devices/cam-1", body: `{"region":"eu"}`})
	w.refused(412, "", call{method: "PATCH", path: "/v1/devices/cam-1", body: `{"region":"eu"}`, header: match(99)})
	w.refused(404, "", call{method: "PATCH", path: "/v1/devices/nobody", body: `{"region":"eu"}`, header: match(1)})
}

func TestOneOfTwoOperatorsAtOnceIsTold(t *testing.T) {
	w := newWorld(t)
	r := w.started()
	statuses := make([]int, 6)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() {
			action := []string{"pause", "cancel"}[i%2]
			statuses[i] = w.do(call{method: "POST", path: "/v1/rollouts/" + r.ID + "/" + action, header: match(r.Revision)}).status
		})
	}
	wg.Wait()
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{200, 412, 412, 412, 412, 412}) {
		t.Errorf("statuses %v", statuses)
	}
	var now api.Rollout
	w.must(200, &now, call{method: "GET", path: "/v1/rollouts/" + r.ID})
	if now.Revision != r.Revision+1 {
		t.Errorf("revision %d after %d: more than one change", now.Revision, r.Revision)
	}
}

func TestACreationWithAKeyHappensOnce(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(2)...)
	w.release("1.0.0")
	cohort := call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`, header: []string{"Idempotency-Key", "k1"}}
	first := w.must(201, nil, cohort)
	again := w.must(201, nil, cohort)
	if string(first.raw) != string(again.raw) {
		t.Errorf("again: %s instead of %s", again.raw, first.raw)
	}
	cohort.body = `{"name":"all","selector":"model=cam-b"}`
	w.refused(409, "", cohort)
	cohort.header = nil
	w.refused(409, "", cohort) // the name is taken
	cohort.header = []string{"Idempotency-Key", strings.Repeat("k", 201)}
	w.refused(422, "Idempotency-Key", cohort)

	// Sent several times at once, as by a client that lost patience.
	var ids [4]string
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var r api.Rollout
			a := w.do(call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"1.0.0"},"cohorts":["all"]}`, header: []string{"Idempotency-Key", "k2"}})
			if err := json.Unmarshal(a.raw, &r); err != nil || a.status != 201 {
				t.Errorf("%d %s", a.status, a.raw)
			}
			ids[i] = r.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("made %v", ids)
		}
	}
}

package api_test

import (
	"fmt"
	"testing"

	"groundswell/fleetd/api"
	"groundswell/topics"
)

func TestARolloutIsDraftedChangedWatchedAndReverted(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(4)...)
	w.release("1.0.0")
	w.release("1.1.0")
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	var r api.Rollout
	w.must(201, &r, call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"],"note":"n",
		"policy":{"waves":[{"percent":25,"spread":"0s","soak":"1s"},{"percent":100}],"breaker":{"slices":["none"]},"settle":"3s","windows":[{"days":["mon"],"start":"22:00","end":"05:00"}],"download_windows":[{"start":"01:00","end":"04:00"}],"delta_coder":"auto"}}`})
	if len(r.Waves) != 2 || r.Policy.Settle.String() != "3s" || len(r.Policy.Breaker.Slices) != 0 || r.Policy.Attempts != 2 || len(r.Policy.DownloadWindows) != 1 || r.Policy.DeltaCoder != "auto" {
		t.Errorf("drafted: %+v", r)
	}
	before := r.Policy
	// A merge patch: null takes away, and what is not allowed to be away is refused.
	w.must(200, &r, call{method: "PATCH", path: "/v1/rollouts/" + r.ID, header: match(r.Revision),
		body: `{"start_at":"2099-01-01T00:00:00Z","priority":7,"from":"<1.0.5","canary_cohort":""}`})
	if r.StartAt == nil || r.Priority != 7 || r.From != "<1.0.5" || r.Note != "n" {
		t.Errorf("changed: %+v", r)
	}
	var cleared api.Rollout
	w.must(200, &cleared, call{method: "PATCH", path: "/v1/rollouts/" + r.ID, header: match(r.Revision),
		body: `{"start_at":null,"priority":null,"from":null,"canary_cohort":null}`})
	if cleared.StartAt != nil || cleared.Priority != 0 || cleared.From != "" || cleared.Note != "n" {
		t.Errorf("null took nothing away: %+v", cleared)
	}
	// What was said about an older revision is stale before it is wrong.
	w.refused(412, "", call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"from":"nonsense"}`, header: match(r.Revision)})
	r = cleared
	w.refused(422, "/from", call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"from":"nonsense"}`, header: match(r.Revision)})
	w.refused(422, "/cohorts", call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"cohorts":null}`, header: match(r.Revision)})
	w.refused(422, "/release/name", call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"release":null}`, header: match(r.Revision)})
	policy := r.Policy
	cleared = api.Rollout{}
	w.must(200, &cleared, call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"policy":null}`, header: match(r.Revision)})
	if len(cleared.Policy.Waves) != 5 || cleared.Policy.Attempts != policy.Attempts || len(cleared.Policy.Windows)+len(cleared.Policy.DownloadWindows) != 0 {
		t.Errorf("null is the default policy: %+v", cleared.Policy)
	}
	w.must(200, &r, call{method: "PATCH", path: "/v1/rollouts/" + r.ID, header: match(cleared.Revision),
		body: map[string]any{"policy": map[string]any{"waves": []map[string]any{{"percent": 25, "spread": "0s", "soak": "1s"}, {"percent": 100}},
			"breaker": map[string]any{"slices": []string{"none"}}, "settle": "3s", "windows": policy.Windows, "download_windows": policy.DownloadWindows, "delta_coder": policy.DeltaCoder}}})
	w.must(200, &r, call{method: "PATCH", path: "/v1/rollouts/" + r.ID, body: `{"from":"<1.1.0"}`, header: match(r.Revision)})
	if r.From != "<1.1.0" || fmt.Sprint(r.Policy) != fmt.Sprint(before) || r.Note != "n" {
		t.Errorf("a change of from changed more: %+v", r)
	}
	w.must(200, &r, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/start", header: match(r.Revision)})
	w.must(200, &r, call{method: "GET", path: "/v1/rollouts/" + r.ID})
	if r.State != "running" || r.Waves[0].Counts == nil {
		t.Errorf("running: %+v", r)
	}
	var d api.Device
	w.must(200, &d, call{method: "GET", path: "/v1/devices/cam-1"})
	if target := d.Targets["system"]; target.Rollout != r.ID || target.Version != "1.1.0" || target.State != "running" || d.Installs == nil || len(d.Installs) != 0 {
		t.Errorf("device: %+v", d)
	}
	var manifest struct {
		Signed struct {
			Body topics.Manifest `json:"groundswell"`
		}
	}
	a := w.must(200, &manifest, call{method: "GET", path: "/v1/cohorts/all/manifest"})
	if len(manifest.Signed.Body.Entries) != 1 || manifest.Signed.Body.Entries[0].Rollout != r.ID || len(manifest.Signed.Body.Entries[0].DownloadWindows) != 1 || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("manifest: %s", a.raw)
	}
	w.refused(422, "/to", call{method: "POST", path: "/v1/rollouts/" + r.ID + "/revert", body: `{"to":"0.9.0"}`, header: match(r.Revision)})
	var revert api.Rollout
	w.must(201, &revert, call{method: "POST", path: "/v1/rollouts/" + r.ID + "/revert", body: `{"to":"1.0.0","ignore_windows":true}`, header: match(r.Revision)})
	if revert.Kind != "revert" || revert.RevertOf != r.ID || revert.Release.Version != "1.0.0" || revert.State != "running" || len(revert.Policy.Windows) != 0 {
		t.Errorf("revert: %+v", revert)
	}
	w.must(200, &r, call{method: "GET", path: "/v1/rollouts/" + r.ID})
	if r.State != "reverting" {
		t.Errorf("the reverted rollout: %+v", r)
	}
	var events struct{ Items []api.Event }
	w.must(200, &events, call{method: "GET", path: "/v1/rollouts/" + r.ID + "/events"})
	if len(events.Items) < 3 || events.Items[0].Kind != "rollout.create" || events.Items[0].Actor != "alice" {
		t.Errorf("events: %+v", events.Items)
	}
	var list struct{ Items []api.Rollout }
	w.must(200, &list, call{method: "GET", path: "/v1/rollouts?state=reverting&release=camera"})
	if len(list.Items) != 1 {
		t.Errorf("listed: %+v", list)
	}
	w.must(200, nil, call{method: "GET", path: "/v1/rollouts/" + r.ID + "/devices?wave=0&state=committed"})
	w.refused(422, "wave", call{method: "GET", path: "/v1/rollouts/" + r.ID + "/devices?wave=9"})
}

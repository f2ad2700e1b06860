package api_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/block"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
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

func TestDevicesAreRegisteredImportedFoundAndPaged(t *testing.T) {
	w := newWorld(t)
	a := w.must(201, nil, call{method: "PUT", path: "/v1/devices/cam-1", body: `{"region":"eu","time_zone":"Europe/Berlin","labels":{"floor":"2"}}`, as: token.Operator})
	if a.header.Get("Location") != "/v1/devices/cam-1" || a.header.Get("ETag") != `"1"` {
		t.Errorf("created: %v", a.header)
	}
	w.must(200, nil, call{method: "PUT", path: "/v1/devices/cam-1", body: `{"region":"us"}`, header: match(1)})
	var d api.Device
	w.must(200, &d, call{method: "PATCH", path: "/v1/devices/cam-1", body: `{"labels":{"a":"1","b":"2"},"customer":"acme"}`, header: match(2)})
	w.must(200, &d, call{method: "PATCH", path: "/v1/devices/cam-1", body: `{"labels":{"a":null},"customer":null}`, header: match(3)})
	d = api.Device{}
	w.must(200, &d, call{method: "GET", path: "/v1/devices/cam-1"})
	if d.Region != "us" || d.Customer != "" || d.TimeZone != "" || len(d.Labels) != 1 || d.Labels["b"] != "2" || d.Revision != 4 {
		t.Errorf("patched: %+v", d)
	}
	var devices []map[string]any
	for _, id := range names(5) {
		devices = append(devices, map[string]any{"id": id, "region": "eu", "customer": "acme"})
	}
	var counted struct{ Created, Updated int }
	w.must(200, &counted, call{method: "POST", path: "/v1/devices/import", body: map[string]any{"devices": devices}})
	if counted.Created != 4 || counted.Updated != 1 {
		t.Errorf("imported: %+v", counted)
	}
	w.report("cam-a", names(3)...)
	count := func(query string) int {
		t.Helper()
		n, cursor := 0, ""
		for {
			var page struct {
				Items []api.Device
				Next  string
			}
			w.must(200, &page, call{method: "GET", path: "/v1/devices?limit=2&cursor=" + url.QueryEscape(cursor) + "&" + query, as: token.Viewer})
			n += len(page.Items)
			if page.Next == "" {
				return n
			}
			cursor = page.Next
		}
	}
	for query, want := range map[string]int{"": 5, "region=eu": 5, "model=cam-a": 3, "below=2.0": 3, "version=1.0.0": 3, "below=1.0.0": 0, "connected=false": 5, "customer=none": 0} {
		if got := count(query); got != want {
			t.Errorf("%q: %d devices, want %d", query, got, want)
		}
	}
	w.must(200, &d, call{method: "GET", path: "/v1/devices/cam-2"})
	if d.Model != "cam-a" || d.Versions["system"] != "1.0.0" || d.Bucket != topics.Bucket("cam-2") || d.LastContact == nil || len(d.Heartbeat) == 0 {
		t.Errorf("after contact: %+v", d)
	}
	var command api.Command
	w.must(201, &command, call{method: "POST", path: "/v1/devices/cam-2/commands", body: `{"action":"report"}`})
	w.must(200, &command, call{method: "GET", path: "/v1/commands/" + command.ID})
	if command.Device != "cam-2" || command.AckedAt != nil || command.CreatedBy != "alice" {
		t.Errorf("command: %+v", command)
	}
	w.must(200, nil, call{method: "GET", path: "/v1/devices/cam-2/history"})
	w.must(200, nil, call{method: "GET", path: "/v1/devices/cam-2/logs"})
}

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

func TestArtifactsAreTakenOnlyWhole(t *testing.T) {
	w := newWorld(t)
	image := w.image("1.0.0", "firmware 1.0.0")
	path := "/v1/artifacts/" + image.SHA256
	w.refused(422, "sha256", call{method: "PUT", path: path, body: "firmware 1.0.1"})
	w.refused(422, "sha256", call{method: "PUT", path: path, body: ""})
	w.refused(413, "Content-Length", call{method: "PUT", path: path, body: make([]byte, 1<<20+1)})
	w.refused(422, "sha256", call{method: "PUT", path: "/v1/artifacts/abc", body: "x"})
	// Without Content-Length: in chunks.
	req, err := http.NewRequest("PUT", w.url+path, struct{ *strings.Reader }{strings.NewReader("firmware 1.0.0")})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Authorization", w.bearer(token.Admin))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 411 {
		t.Errorf("in chunks: %s", resp.Status)
	}
	w.refused(404, "", call{method: "GET", path: path})
	w.must(201, nil, call{method: "PUT", path: path, body: "firmware 1.0.0"})
	w.must(200, nil, call{method: "PUT", path: path, body: "firmware 1.0.0"})
	var a api.Artifact
	w.must(200, &a, call{method: "GET", path: path, as: token.Viewer})
	if a.Length != image.Length || a.CreatedBy != "alice" {
		t.Errorf("artifact: %+v", a)
	}
}

// publish offers a list.
func publish(targets []byte) call {
	return call{method: "POST", path: "/v1/releases", body: b64("targets_b64", targets)}
}

func TestTheCatalogueTakesOnlyWhatTheReleaseRoleSigned(t *testing.T) {
	w := newWorld(t)
	const pointer = "/targets_b64"
	one := w.image("1.0.0", "firmware 1.0.0")
	good := w.sign(nil, w.releaseKeys, one)

	w.refused(422, pointer, publish(good)) // the bytes are not there yet
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + one.SHA256, body: "firmware 1.0.0"})
	w.refused(422, pointer, publish(w.sign(nil, w.releaseKeys[:1], one))) // under the threshold
	w.refused(422, pointer, publish([]byte(strings.Replace(string(good), "cam-a", "cam-z", 1))))
	w.refused(422, pointer, publish(nil))
	w.refused(422, pointer, publish([]byte("{}")))
	w.refused(422, pointer, call{method: "POST", path: "/v1/releases", body: `{"targets_b64":"not base64!"}`})
	stranger := newWorld(t)
	w.refused(422, pointer, publish(stranger.sign(nil, stranger.releaseKeys, one)))
	longer := one
	longer.Length++
	w.refused(422, pointer, publish(w.sign(nil, w.releaseKeys, longer)))
	if a := w.do(call{method: "GET", path: "/v1/repository/image/timestamp.json"}); a.status != 404 {
		t.Fatalf("a refused list left a timestamp: %d %s", a.status, a.raw)
	}

	var created struct{ Created []api.Release }
	w.must(201, &created, publish(good))
	w.must(201, &created, publish(good)) // the answer was lost
	if len(created.Created) != 1 || created.Created[0].Version != "1.0.0" || created.Created[0].SHA256 != one.SHA256 {
		t.Errorf("created: %+v", created)
	}

	two := w.image("1.1.0", "firmware 1.1.0")
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + two.SHA256, body: "firmware 1.1.0"})
	changed := one
	changed.Release.Notes = "other"
	for name, bad := range map[string][]byte{
		"same version, other list": w.sign(nil, w.releaseKeys, two),
		"vanished":                 w.sign(w.sign(nil, w.releaseKeys, two), w.releaseKeys),
		"changed":                  w.sign(w.sign(nil, w.releaseKeys, changed), w.releaseKeys, two),
	} {
		a := w.do(publish(bad))
		if a.status != 409 || !strings.Contains(string(a.raw), pointer) {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	w.must(201, &created, publish(w.sign(good, w.releaseKeys, two)))
	if len(created.Created) != 1 || created.Created[0].Version != "1.1.0" {
		t.Errorf("created: %+v", created)
	}
	w.refused(409, pointer, publish(good)) // the old list again

	// What a device would do with what is served.
	get := func(name string) []byte {
		t.Helper()
		return w.must(200, nil, call{method: "GET", path: "/v1/repository/image/" + name, as: token.Viewer}).raw
	}
	state, err := trust.NewState(domain, get("1.root.json"), w.directorRoot)
	if err != nil {
		t.Fatal(err)
	}
	state, pin, err := state.Timestamp(get("timestamp.json"), now())
	if err != nil {
		t.Fatal(err)
	}
	state, targets, err := state.Snapshot(get(fmt.Sprintf("%d.snapshot.json", pin.Version)), pin, now())
	if err != nil {
		t.Fatal(err)
	}
	_, images, err := state.Targets(get(fmt.Sprintf("%d.targets.json", targets.Version)), now())
	if err != nil || len(images.All()) != 2 {
		t.Errorf("images %v, err %v", images.All(), err)
	}
}

func TestAReleaseIsTakenOnlyWithTheBlockIndexOfItsArtifact(t *testing.T) {
	database, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, database)
	const pointer = "/targets_b64"
	firmware := strings.Repeat("firmware 1.0.0 ", 30_000) // several blocks
	image := w.image("1.0.0", firmware)
	index := func(of string) []byte {
		x, err := block.Make(t.Context(), strings.NewReader(of), int64(len(of)))
		if err != nil || len(x.Blocks) < 2 {
			t.Fatalf("%d blocks, %v", len(x.Blocks), err)
		}
		return x.Bytes()
	}
	with := func(length int, raw []byte) []byte {
		digest := sha256.Sum256(raw)
		image.Release.Index = &topics.Document{Length: int64(length), SHA256: hex.EncodeToString(digest[:])}
		return w.sign(nil, w.releaseKeys, image)
	}
	put := func(raw []byte) {
		digest := sha256.Sum256(raw)
		w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + hex.EncodeToString(digest[:]), body: raw})
	}
	put([]byte(firmware))
	good := index(firmware)
	w.refused(422, pointer, publish(with(len(good), good))) // it is not there yet
	put(good)
	w.refused(422, pointer, publish(with(len(good)+1, good)))
	other := []byte(firmware)
	other[len(other)-1] = '!'
	for what, bad := range map[string][]byte{
		"of other bytes":     index(string(other)),
		"of another length":  index(firmware + firmware),
		"with something put": append(slices.Clone(good), 0),
		"none":               []byte("not an index"),
	} {
		put(bad)
		a := w.do(publish(with(len(bad), bad)))
		if a.status != 422 || !strings.Contains(string(a.raw), image.Path+": wrong block index") {
			t.Errorf("%s: %d %s", what, a.status, a.raw)
		}
	}
	if a := w.do(call{method: "GET", path: "/v1/releases/camera/1.0.0"}); a.status != 404 {
		t.Fatalf("a refused list left a release: %d %s", a.status, a.raw)
	}
	var created struct{ Created []api.Release }
	w.must(201, &created, publish(with(len(good), good)))
	var got api.Release
	w.must(200, &got, call{method: "GET", path: "/v1/releases/camera/1.0.0"})
	if len(created.Created) != 1 || got.Index == nil || *got.Index != api.Document(*image.Release.Index) {
		t.Errorf("created %+v, got %+v", created, got)
	}
	// As a replica of the version before has added it.
	if _, err := devtest.Postgres(t).Query(t.Context(), name, `UPDATE release SET index_length = NULL, index_sha256 = NULL`); err != nil {
		t.Fatal(err)
	}
	if err := w.catalogue.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := got
	again.Index = nil
	w.must(200, &again, call{method: "GET", path: "/v1/releases/camera/1.0.0"})
	if again.Index == nil || *again.Index != *got.Index {
		t.Errorf("not noted when it began: %+v", again)
	}
}

func TestTwoListsAtOnceNeverLoseARelease(t *testing.T) {
	w := newWorld(t)
	w.release("1.0.0")
	var lists [4][]byte
	for i := range lists {
		firmware := fmt.Sprintf("firmware 1.1.%d", i)
		image := w.image(fmt.Sprintf("1.1.%d", i), firmware)
		w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + image.SHA256, body: firmware})
		lists[i] = w.sign(w.targets, w.releaseKeys, image)
		for range i { // each of another version, so that only what is in them can collide
			lists[i] = w.sign(lists[i], w.releaseKeys)
		}
	}
	statuses := make([]int, len(lists))
	var wg sync.WaitGroup
	for i := range lists {
		wg.Go(func() { statuses[i] = w.do(publish(lists[i])).status })
	}
	wg.Wait()
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{201, 409, 409, 409}) {
		t.Errorf("statuses %v", statuses)
	}
}

// What was published after the backup is gone, but devices hold it: what is
// published next has to reach them nevertheless.
func TestAReleaseReachesDevicesAfterTheDatabaseWasRestored(t *testing.T) {
	url, name := devtest.NamedDatabase(t)
	w := newWorldOn(t, url)
	get := func(name string) []byte {
		t.Helper()
		return w.must(200, nil, call{method: "GET", path: "/v1/repository/image/" + name, as: token.Viewer}).raw
	}
	state := storetest.Must(trust.NewState(domain, w.imageRoot, w.directorRoot))
	// learn is what a device does with the pin of a manifest; known are the
	// releases that it knows then.
	learn := func() (pin topics.SnapshotPin, known int) {
		t.Helper()
		pin = storetest.Must(w.store.ImagePin(t.Context()))
		if state.NeedsSnapshot(pin) {
			var names trust.TargetsPin
			var err error
			if state, names, err = state.Snapshot(get(fmt.Sprintf("%d.snapshot.json", pin.Version)), pin, now()); err != nil {
				t.Fatal(err)
			}
			if state, _, err = state.Targets(get(fmt.Sprintf("%d.targets.json", names.Version)), now()); err != nil {
				t.Fatal(err)
			}
		}
		return pin, len(storetest.Must(state.Images(now())).All())
	}
	w.release("1.0.0")
	backup, _ := learn()
	w.release("1.1.0")
	lost, known := learn()
	if known != 2 {
		t.Fatalf("%d releases", known)
	}
	sql := fmt.Sprintf(`BEGIN;
		DELETE FROM repository_file WHERE name <> 'root.json' AND version > CASE name WHEN 'targets.json' THEN 1 ELSE %d END;
		DELETE FROM release WHERE version = '1.1.0';
		UPDATE image_pin SET version = %[1]d, length = %d, sha256 = '%s'; COMMIT`, backup.Version, backup.Length, backup.SHA256)
	if _, err := devtest.Postgres(t).Query(t.Context(), name, sql); err != nil {
		t.Fatal(err)
	}
	// A backup is older than this second.
	devtest.Eventually(t, 0, "the next second", devtest.True(func() bool { return now().Unix() > lost.Version }))
	if _, known := learn(); known != 2 {
		t.Fatalf("%d releases", known)
	}
	w.release("1.2.0") // the release keys' holders have kept their list
	if pin, known := learn(); known != 3 {
		t.Errorf("the device knows %d releases; snapshot %d was lost, the new one is %d", known, lost.Version, pin.Version)
	}
}

func TestARootIsFollowedStepByStep(t *testing.T) {
	w := newWorld(t)
	w.release("1.0.0")
	put := func(raw []byte) call {
		return call{method: "PUT", path: "/v1/repository/image/root", body: b64("root_b64", raw)}
	}
	spec := w.imageSpec()
	newSnapshot := key(t)
	spec.Snapshot = role(1, w.snapshotKey, newSnapshot)
	two, err := trust.RotateRoot(w.imageRoot, spec, w.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	three, err := trust.RotateRoot(two, w.imageSpec(), w.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newWorld(t)
	foreign, err := trust.RotateRoot(stranger.imageRoot, stranger.imageSpec(), stranger.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	w.refused(409, "/root_b64", put(three))
	w.refused(422, "/root_b64", put(foreign))
	w.refused(422, "/root_b64", put(w.directorRoot))
	pinned := func() int64 { return storetest.Must(w.store.ImagePin(t.Context())).Version }
	first := pinned()
	var root api.Root
	w.must(200, &root, put(two))
	w.must(200, &root, put(two)) // again
	second := pinned()
	if second <= first {
		t.Errorf("snapshot %d after %d", second, first)
	}
	if root.Version != 2 {
		t.Errorf("root: %+v", root)
	}
	w.refused(409, "/root_b64", put(w.imageRoot))
	w.must(200, &root, put(three))
	if err := w.catalogue.Ready(context.Background()); err != nil {
		t.Errorf("ready: %v", err)
	}
	// The snapshot was signed anew after each.
	if again := pinned(); again <= second {
		t.Errorf("snapshot %d after %d", again, second)
	}
	w.must(200, nil, call{method: "GET", path: fmt.Sprintf("/v1/repository/image/%d.snapshot.json", pinned())})
	w.must(200, nil, call{method: "GET", path: "/v1/repository/image/2.root.json"})
}

func TestManifestsAreSignedAnewWhenTheDirectorRootDropsTheirKey(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(2)...)
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	due := func() int {
		t.Helper()
		n, err := w.store.RefreshManifests(context.Background(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	spec := w.directorSpec()
	next := key(t)
	spec.Targets = role(1, w.directorKey, next)
	two, err := trust.RotateRoot(w.directorRoot, spec, w.directorRootKey)
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(raw []byte) {
		t.Helper()
		w.must(200, nil, call{method: "PUT", path: "/v1/repository/director/root", body: b64("root_b64", raw)})
	}
	rotate(two)
	if n := due(); n != 0 {
		t.Errorf("%d manifests are due after a key was added", n)
	}
	// Somebody who holds the other key signed; then that key is dropped.
	w.resign(next)
	three, err := trust.RotateRoot(two, w.directorSpec(), w.directorRootKey)
	if err != nil {
		t.Fatal(err)
	}
	rotate(three)
	if n := due(); n != 1 {
		t.Errorf("%d manifests are due after their key was dropped, want 1", n)
	}
	state, err := trust.NewState(domain, w.imageRoot, three)
	if err != nil {
		t.Fatal(err)
	}
	a := w.must(200, nil, call{method: "GET", path: "/v1/cohorts/all/manifest"})
	if _, _, err := state.Manifest(a.raw, "all", now()); err != nil {
		t.Errorf("the manifest by the new root: %v", err)
	}
}

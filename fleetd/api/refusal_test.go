package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/certs/token"
)

// routes lists every operation of the description, with paths filled in.
func (w *world) routes() map[string]call {
	w.t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Description string                `json:"description"`
			Security    []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	w.must(200, &doc, call{method: "GET", path: "/openapi.json", as: "nobody"})
	filled := strings.NewReplacer("{id}", "x", "{name}", "x", "{version}", "1.0.0", "{sha256}", strings.Repeat("0", 64),
		"{repository}", "image", "{file}", "1.root.json")
	routes := map[string]call{}
	for path, methods := range doc.Paths {
		for method, o := range methods {
			_, role, _ := strings.Cut(o.Description, "Role: ")
			routes[o.OperationID] = call{method: strings.ToUpper(method), path: filled.Replace(path), as: token.Role(strings.TrimSuffix(role, "."))}
		}
	}
	return routes
}

func TestEveryOperationNeedsATokenOfItsRole(t *testing.T) {
	w := newWorld(t)
	routes := w.routes()
	if len(routes) < 35 {
		t.Fatalf("only %d operations", len(routes))
	}
	below := map[token.Role]token.Role{token.Operator: token.Viewer, token.Admin: token.Operator}
	for id, c := range routes {
		need := c.as
		if (c.method == "GET") != (need == token.Viewer) && id != "list-audit" {
			t.Errorf("%s %s needs role %q", c.method, c.path, need)
		}
		c.as = "nobody"
		w.refused(401, "Authorization", c)
		c.header = []string{"Authorization", "Basic YTpi"}
		w.refused(401, "Authorization", c)
		c.header = []string{"Authorization", "Bearer " + strings.Repeat("x", 40)}
		w.refused(401, "Authorization", c)
		if lower, ok := below[need]; ok {
			c.header, c.as = nil, lower
			w.refused(403, "", c)
		}
	}
	expired, err := w.issuer.Sign("alice", token.Admin, time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a := w.do(call{method: "GET", path: "/v1/whoami", as: "nobody", header: []string{"Authorization", "Bearer " + expired}})
	if a.status != 401 || !strings.Contains(string(a.raw), "expired") || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("expired token: %d %s", a.status, a.raw)
	}
}

func TestWhatIsUnknownIsNamed(t *testing.T) {
	w := newWorld(t)
	for id, c := range w.routes() {
		c.as = token.Admin
		c.path += "?frobnicate=1"
		a := w.do(c)
		if a.status != 422 || !strings.Contains(string(a.raw), `"parameter":"frobnicate"`) {
			t.Errorf("%s: unknown query parameter: %d %s", id, a.status, a.raw)
		}
	}
	w.refused(422, "/frobnicate", call{method: "POST", path: "/v1/cohorts", body: `{"name":"eu","selector":"region=eu","frobnicate":1}`})
	w.refused(422, "/Name", call{method: "POST", path: "/v1/cohorts", body: `{"Name":"eu","name":"eu","selector":"region=eu"}`})
	w.refused(422, "/policy/waves/0/width", call{method: "POST", path: "/v1/rollouts", body: `{"release":{"name":"a","version":"1.0.0"},"cohorts":["eu"],"policy":{"waves":[{"percent":1,"width":2}]}}`})
	w.refused(422, "/devices/1/frob~1nicate", call{method: "POST", path: "/v1/devices/import", body: `{"devices":[{"id":"a"},{"id":"b","frob/nicate":1}]}`})
	w.refused(404, "", call{method: "GET", path: "/v1/nothing"})
	w.refused(404, "", call{method: "GET", path: "/v2/devices", as: "nobody"})
	a := w.do(call{method: "DELETE", path: "/v1/devices"})
	if a.status != 405 || !strings.Contains(a.header.Get("Allow"), "GET") || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("wrong method: %d %v %s", a.status, a.header, a.raw)
	}
}

func TestMalformedBodiesAreRefused(t *testing.T) {
	w := newWorld(t)
	post := func(body any) call { return call{method: "POST", path: "/v1/cohorts", body: body} }
	a := w.do(post(`{"name":`))
	if a.status != 400 {
		t.Errorf("cut off: %d %s", a.status, a.raw)
	}
	a = w.do(post(`{"name":"eu","selector":"model"} {}`))
	if a.status != 400 {
		t.Errorf("text behind: %d %s", a.status, a.raw)
	}
	w.refused(400, "", post(nil))
	w.refused(422, "", post(`[]`))
	w.refused(422, "/name", post(`{"selector":"model"}`))
	w.refused(422, "/name", post(`{"name":7,"selector":"model"}`))
	w.refused(413, "", call{method: "POST", path: "/v1/rollouts", body: bytes.Repeat([]byte(" "), 1<<20+10)})
	c := post(`{"name":"eu","selector":"model"}`)
	c.header = []string{"Content-Type", "text/csv"}
	if a := w.do(c); a.status != 415 {
		t.Errorf("content type: %d %s", a.status, a.raw)
	}
	if a := w.do(call{method: "GET", path: "/v1/cohorts/eu"}); a.status != 404 {
		t.Errorf("a refused cohort is there: %d %s", a.status, a.raw)
	}
}

func TestEveryRefusalOfTheDomainPointsAtItsField(t *testing.T) {
	w := newWorld(t)
	w.report("cam-a", names(3)...)
	w.report("cam-b", "other-1")
	w.release("1.0.0")
	w.release("1.1.0")
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"all","selector":"model=cam-a"}`})
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"b","selector":"model=cam-b"}`})
	long := strings.Repeat("x", 64)

	for path, parameter := range map[string]string{
		"/v1/devices?limit=0": "limit", "/v1/devices?limit=1001": "limit", "/v1/devices?limit=many": "limit",
		"/v1/devices?cursor=nonsense": "cursor", "/v1/devices?below=two": "below", "/v1/devices?version=1": "version",
		"/v1/devices?connected=maybe": "connected", "/v1/devices?state=flying": "state", "/v1/devices?cohort=a%20b": "cohort",
		"/v1/devices/a%00b": "id", "/v1/devices/" + long: "id", "/v1/rollouts?state=done": "state",
		"/v1/rollouts?cursor=WyJhIl0": "cursor", "/v1/cohorts?cursor=!": "cursor", "/v1/releases?name=a/b": "name",
		"/v1/audit?actor=%00": "actor", "/v1/artifacts/abc": "sha256", "/v1/repository/other/1.root.json": "repository",
		"/v1/rollouts/x/devices?wave=-1": "wave",
	} {
		w.refused(422, parameter, call{method: "GET", path: path})
	}
	for body, pointer := range map[string]string{
		`{"name":"-x","selector":"model"}`:           "/name",
		`{"name":"` + long + `","selector":"model"}`: "/name",
		`{"name":"x"}`:                                               "/selector",
		`{"name":"x","selector":"model in (a"}`:                      "/selector",
		`{"name":"x","selector":"version<2.0"}`:                      "/selector",
		`{"name":"x","selector":"model","devices":["a"]}`:            "/devices",
		`{"name":"x","devices":["a","b","a"]}`:                       "/devices/2",
		`{"name":"x","devices":["a b"]}`:                             "/devices/0",
		`{"name":"x","selector":"model","description":"nul\u0000!"}`: "/description",
	} {
		w.refused(422, pointer, call{method: "POST", path: "/v1/cohorts", body: body})
	}
	for body, pointer := range map[string]string{
		`{"time_zone":"Europe/Nowhere"}`: "/time_zone", `{"time_zone":"Local"}`: "/time_zone", `{"region":"e u"}`: "/region",
		`{"labels":{"floor":"1 2"}}`: "/labels/floor", `{"labels":{"a b":"1"}}`: "/labels/a b", `{"polling_s":-1}`: "/polling_s", `{"polling_s":1.5}`: "/polling_s",
	} {
		w.refused(422, pointer, call{method: "PUT", path: "/v1/devices/new-1", body: body})
	}
	w.refused(422, "/devices/1/time_zone", call{method: "POST", path: "/v1/devices/import", body: `{"devices":[{"id":"a"},{"id":"b","time_zone":"Mars"}]}`})
	w.refused(422, "/devices/1/id", call{method: "POST", path: "/v1/devices/import", body: `{"devices":[{"id":"a"},{"id":"b c"}]}`})
	w.refused(422, "/devices", call{method: "POST", path: "/v1/devices/import", body: `{"devices":[]}`})
	w.refused(404, "", call{method: "GET", path: "/v1/devices/a"})
	w.refused(422, "/action", call{method: "POST", path: "/v1/devices/cam-1/commands", body: `{"action":"explode"}`})
	w.refused(422, "/rollout", call{method: "POST", path: "/v1/devices/cam-1/commands", body: `{"action":"retry"}`})
	w.refused(422, "/expires", call{method: "POST", path: "/v1/devices/cam-1/commands", body: `{"action":"report","expires":"soon"}`})

	rollout := func(change string) call {
		body := map[string]any{}
		if err := json.Unmarshal([]byte(`{"release":{"name":"camera","version":"1.1.0"},"cohorts":["all"]}`), &body); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(change), &body); err != nil {
			t.Fatal(change, err)
		}
		return call{method: "POST", path: "/v1/rollouts", body: body}
	}
	for change, pointer := range map[string]string{
		`{"release":{"name":"camera","version":"9.9.9"}}`:  "/release",
		`{"release":{"name":"toaster","version":"1.0.0"}}`: "/release",
		`{"release":{"name":"camera","version":"v1"}}`:     "/release/version",
		`{"cohorts":[]}`:                                                         "/cohorts",
		`{"cohorts":["all","nowhere"]}`:                                          "/cohorts/1",
		`{"cohorts":["all","all"]}`:                                              "/cohorts/1",
		`{"cohorts":["b"]}`:                                                      "/cohorts/0",
		`{"canary_cohort":"all"}`:                                                "/canary_cohort",
		`{"canary_cohort":"nowhere"}`:                                            "/canary_cohort",
		`{"from":"older"}`:                                                       "/from",
		`{"priority":2000000}`:                                                   "/priority",
		`{"start_at":"tomorrow"}`:                                                "/start_at",
		`{"note":"\u0000"}`:                                                      "/note",
		`{"policy":{"waves":[]}}`:                                                "/policy/waves",
		`{"policy":{"waves":[{"percent":0}]}}`:                                   "/policy/waves/0/percent",
		`{"policy":{"waves":[{"percent":101}]}}`:                                 "/policy/waves/0/percent",
		`{"policy":{"waves":[{"percent":10},{"percent":5}]}}`:                    "/policy/waves/1/percent",
		`{"policy":{"waves":[{"percent":"x"}]}}`:                                 "/policy/waves/0/percent",
		`{"policy":{"waves":[{"percent":1,"soak":"long"}]}}`:                     "/policy/waves/0/soak",
		`{"policy":{"waves":[{"percent":1,"spread":"-1h"}]}}`:                    "/policy/waves/0/spread",
		`{"policy":{"waves":[{"percent":1,"spread":"15"}]}}`:                     "/policy/waves/0/spread",
		`{"policy":{"gate":{"min_sample":0}}}`:                                   "/policy/gate/min_sample",
		`{"policy":{"gate":{"success_percent":0}}}`:                              "/policy/gate/success_percent",
		`{"policy":{"gate":{"max_silent_percent":0}}}`:                           "/policy/gate/max_silent_percent",
		`{"policy":{"breaker":{"percent":0}}}`:                                   "/policy/breaker/percent",
		`{"policy":{"gate":{"success_percent":120}}}`:                            "/policy/gate/success_percent",
		`{"policy":{"breaker":{"slices":["colour"]}}}`:                           "/policy/breaker/slices/0",
		`{"policy":{"breaker":{"window":"0s"}}}`:                                 "/policy/breaker/window",
		`{"policy":{"silent":{"factor":-1}}}`:                                    "/policy/silent/factor",
		`{"policy":{"windows":[{"start":"25:00","end":"05:00"}]}}`:               "/policy/windows/0/start",
		`{"policy":{"windows":[{"days":["mo"],"start":"22:00","end":"05:00"}]}}`: "/policy/windows/0/days/0",
		`{"policy":{"delta_coder":"fast"}}`:                                      "/policy/delta_coder",
		`{"policy":{"download_windows":[{"start":"01:00","end":"24:00"}]}}`:      "/policy/download_windows/0/end",
		`{"policy":{"deadline":"0s"}}`:                                           "/policy/deadline",
		`{"policy":{"attempts":0}}`:                                              "/policy/attempts",
	} {
		w.refused(422, pointer, rollout(change))
	}
	var drafts struct{ Items []json.RawMessage }
	w.must(200, &drafts, call{method: "GET", path: "/v1/rollouts"})
	if len(drafts.Items) != 0 {
		t.Errorf("a refused rollout is there: %s", drafts.Items)
	}
}

func TestWhatFleetdCannotExplainIsA500WithoutDetail(t *testing.T) {
	w := newWorld(t)
	w.store.Close()
	for _, path := range []string{"/v1/devices", "/v1/rollouts/x", "/v1/repository/image/1.root.json"} {
		a := w.do(call{method: "GET", path: path})
		if a.status != 500 || strings.Contains(string(a.raw), "pool") || !strings.Contains(string(a.raw), `"detail":"internal error"`) {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
}

func TestTheRequestIDFollowsARequestIntoTheAuditTrail(t *testing.T) {
	w := newWorld(t)
	w.must(201, nil, call{method: "POST", path: "/v1/cohorts", body: `{"name":"eu","selector":"region=eu"}`, as: token.Operator, header: []string{"X-Request-Id", "ticket-17"}})
	a := w.do(call{method: "GET", path: "/v1/whoami", header: []string{"X-Request-Id", "not\ta slug"}})
	if id := a.header.Get("X-Request-Id"); id == "" || strings.Contains(id, " ") {
		t.Errorf("request id %q", id)
	}
	var audit struct {
		Items []struct{ Actor, Action, Object, Request_id string }
	}
	w.must(200, &audit, call{method: "GET", path: "/v1/audit?object=cohort/eu"})
	if len(audit.Items) != 1 || audit.Items[0].Actor != "alice" || audit.Items[0].Action != "cohort.create" || audit.Items[0].Request_id != "ticket-17" {
		t.Errorf("audit: %+v", audit.Items)
	}
}

func TestAnAbandonedUploadLeavesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "PUT", w.url+"/v1/artifacts/"+w.image("1.0.0", "firmware").SHA256, reader)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 8
	req.Header.Set("Authorization", w.bearer(token.Admin))
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	if _, err := writer.Write([]byte("firm")); err != nil {
		t.Fatal(err)
	}
	cancel()
	// The transport may still wait for the rest of the body.
	_ = writer.CloseWithError(context.Canceled)
	if err := <-done; err == nil {
		t.Error("an abandoned upload succeeded")
	}
	w.refused(404, "", call{method: "GET", path: "/v1/artifacts/" + w.image("1.0.0", "firmware").SHA256})
}

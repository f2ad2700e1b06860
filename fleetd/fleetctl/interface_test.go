package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"groundswell/certs/token"
	"groundswell/internal/cli"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// document is what is looked at of fleetd's OpenAPI document.
type document struct {
	Paths      map[string]map[string]struct{ OperationID string }
	Components struct {
		Schemas map[string]struct {
			Properties map[string]json.RawMessage
		}
	}
}

// through puts a proxy between fleetctl and fleetd that notes each request.
func (f *fleetd) through(t *testing.T) (requests func() []string) {
	t.Helper()
	target, err := url.Parse(f.stack.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	client, err := f.stack.HTTPClient()
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = client.Transport
	var mu sync.Mutex // guards seen
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.Path)
		mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.flags = append(f.offline(), "--server", s.URL, "--token-file", f.stack.TokenFile(token.Admin))
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), seen...)
	}
}

// idOf is the id in what a command printed with -o json.
func (f fleetd) idOf(args ...string) string {
	f.t.Helper()
	var object struct{ ID string }
	if err := json.Unmarshal([]byte(f.must(append(args, "-o", "json")...)), &object); err != nil || object.ID == "" {
		f.t.Fatalf("%q: no id (%v)", args, err)
	}
	return object.ID
}

// TestOperatorsReachEveryOperationOfTheInterface works with a real fleetd and a
// real device, and compares what fleetctl asked for with the OpenAPI document.
func TestOperatorsReachEveryOperationOfTheInterface(t *testing.T) {
	f := newFleetd(t)
	requests := f.through(t)
	ctx := t.Context()
	var doc document
	if err := f.stack.API(ctx, "GET", "/openapi.json", nil, &doc); err != nil {
		t.Fatal(err)
	}
	tablesFit(t, doc)

	firmware, err := devstack.Firmware(ctx, "1.0.0", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		f.must("release", "create", "--name", "camera", "--version", version, "--artifact", firmware, "--model", "cam-a",
			"--key", f.key("offline/release-1.key"), "--key", f.key("offline/release-2.key"))
	}
	contains(t, "releases", f.must("release", "list"), "1.0.0", "1.1.0")
	contains(t, "a release", f.must("release", "show", "camera@1.1.0"), "cam-a")

	// A device: registered, at work, changed, asked.
	f.must("device", "create", "cam-1", "--region", "eu", "--label", "site=lobby")
	f.refused("the device exists", f.flags, "device", "create", "cam-1")
	if _, err := f.stack.StartAgent(ctx, stack.AgentOptions{ID: "cam-1", Model: "cam-a", Hardware: "a", Firmware: firmware, Version: "1.0.0"}); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "the device's first report", func() error {
		if out := f.must("device", "list", "--version", "1.0.0"); !strings.Contains(out, "cam-1") {
			return fmt.Errorf("devices:\n%s", out)
		}
		return nil
	})
	contains(t, "obeyed", f.must("device", "command", "cam-1", "report", "--wait", "30s"), "report", " ago")
	f.must("device", "command-status", f.idOf("device", "command", "cam-1", "logs"), "--wait", "30s")
	f.must("device", "logs", "cam-1")
	f.must("device", "import", write(t, "devices.csv", "id,region\ncam-2,us\n"))
	if code, out, _ := run(t, append([]string{"device", "command", "cam-2", "report", "--wait", "1ms"}, f.flags...)...); code != exitUnwanted || !strings.Contains(out, "cam-2") {
		t.Errorf("a device that does not obey: exit code %d, %s", code, out)
	}
	var cam device
	set := f.must("device", "set", "cam-1", "--region", "uk", "--customer", "acme", "--time-zone", "Europe/London",
		"--label", "floor=2", "--unlabel", "site", "--polling", "15m", "-o", "json")
	if err := json.Unmarshal([]byte(set), &cam); err != nil || cam.Region != "uk" || cam.Customer != "acme" || cam.TimeZone != "Europe/London" ||
		!strings.Contains(set, `"floor": "2"`) || strings.Contains(set, "lobby") || !strings.Contains(set, `"polling_s": 900`) {
		t.Errorf("after device set (%v): %s", err, set)
	}
	set = f.must("device", "set", "cam-1", "--customer", "", "--region", "eu", "-o", "json")
	if strings.Contains(set, "acme") || !strings.Contains(set, "Europe/London") {
		t.Errorf("an attribute that was emptied, and one that was not named: %s", set)
	}
	if code, _, errOut := run(t, append([]string{"device", "set", "cam-1", "--region", "us", "--revision", "1"}, f.flags...)...); code != exitStale {
		t.Errorf("a stale change: exit code %d, %s", code, errOut)
	}
	f.refused("time_zone", f.flags, "device", "set", "cam-1", "--time-zone", "Europe/Atlantis")
	contains(t, "the device", f.must("device", "show", "cam-1"), "Europe/London", "floor=2", "every 15m0s", "connected", "COMPONENT", "1.0.0")

	f.must("cohort", "create", "eu", "--selector", "region=us")
	contains(t, "the cohort changed", f.must("cohort", "update", "eu", "--selector", "region=eu", "--description", "Europe"), "region=eu", "Europe")
	contains(t, "its member", f.must("cohort", "show", "eu", "--members"), "cam-1")
	contains(t, "the cohort", f.must("cohort", "show", "eu"), "region=eu")
	contains(t, "its manifest", f.must("cohort", "manifest", "eu"), `"signatures"`, `"eu"`)
	f.must("cohort", "create", "few", "--device", "cam-1")
	contains(t, "deleted", f.must("cohort", "delete", "few"), "few")
	if out := f.must("cohort", "list"); strings.Contains(out, "few") {
		t.Errorf("a deleted cohort is listed:\n%s", out)
	}

	policy := write(t, "policy.json", `{"waves":[{"percent":50,"soak":"1h"},{"percent":100}]}`)
	draft := f.idOf("rollout", "create", "camera@1.1.0", "--cohort", "eu", "--priority", "3", "--start-at", "2099-01-01T00:00:00Z")
	changed := f.must("rollout", "update", draft, "--policy", policy, "--priority", "0", "--note", "second thoughts", "--start-at", "", "-o", "json")
	contains(t, "the draft changed", changed, "second thoughts", `"soak": "1h0m0s"`)
	if strings.Contains(changed, `"priority": 3`) || strings.Contains(changed, "2099") {
		t.Errorf("a flag that was given as zero changed nothing:\n%s", changed)
	}
	contains(t, "a preview", f.must("rollout", "preview", draft, "--price-per-gb", "1000000"), "1.0.0", "full", "EUR", "FROM HOUR")
	f.must("rollout", "start", draft)
	contains(t, "paused", f.must("rollout", "pause", draft, "--reason", "lunch"), "paused", "lunch")
	contains(t, "goes on", f.must("rollout", "resume", draft), "running")
	contains(t, "waves", f.must("rollout", "show", draft), "50 %")
	f.must("rollout", "devices", draft)
	contains(t, "events", f.must("rollout", "events", draft), "lunch")
	contains(t, "rollouts", f.must("rollout", "list"), draft)
	f.must("rollout", "revert", draft, "--to", "1.0.0", "--note", "no audio")
	other := f.idOf("rollout", "create", "camera@1.1.0", "--cohort", "eu")
	contains(t, "cancelled", f.must("rollout", "cancel", other), "cancelled")

	for i := range topics.MaxCohorts {
		f.must("cohort", "create", fmt.Sprintf("zone-%d", i), "--selector", "zone=a")
	}
	f.must("device", "set", "cam-1", "--label", "zone=a", "--region", "eu") // one too many, with eu
	// There may be others, of what the device tried while its cohorts changed.
	var alerts []alert
	if err := json.Unmarshal([]byte(f.must("alerts", "list", "-o", "json")), &alerts); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(alerts, func(a alert) bool { return a.Kind == "too-many-cohorts" && a.Object == "device/cam-1" })
	if at < 0 {
		t.Fatalf("alerts: %+v", alerts)
	}
	number := strconv.FormatInt(alerts[at].ID, 10)
	contains(t, "known", f.must("alert", "acknowledge", number, "--note", "wanted"), "acknowledged", "wanted")
	contains(t, "an alert", f.must("alert", "show", number), "too-many-cohorts", "wanted")
	if out := f.must("alert", "list", "--state", "open"); strings.Contains(out, "too-many-cohorts") {
		t.Errorf("acknowledged, and open:\n%s", out)
	}
	contains(t, "cleared", f.must("alert", "clear", number), number)
	if out := f.must("alert", "list"); strings.Contains(out, "too-many-cohorts") {
		t.Errorf("cleared, and listed:\n%s", out)
	}
	f.must("dead-letters")
	contains(t, "the audit", f.must("audit", "--object", "device/cam-1"), "device")
	contains(t, "who", f.must("whoami"), "admin")
	root := filepath.Join(t.TempDir(), "root.json")
	f.must("keys", "rotate-root", "director", "--out", root, "--key", f.key("offline/director-root.key"))
	f.must("keys", "publish-root", "director", "--root", root)
	f.must("keys", "show-root", "director", "--root", root)

	// Not for operators, or reached otherwise, and why.
	elsewhere := map[string]string{
		"cohort-members": "cohort show --members lists the devices themselves, by list-devices",
	}
	asked := strings.Join(requests(), "\n") + "\n"
	for path, methods := range doc.Paths {
		for method, operation := range methods {
			pattern := "(?m)^" + strings.ToUpper(method) + " " + regexp.MustCompile(`\\\{[a-z0-9_]+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), "[^/\n]+") + "$"
			if reached := regexp.MustCompile(pattern).MatchString(asked); reached == (elsewhere[operation.OperationID] != "") {
				t.Errorf("%s (%s %s): reached %v", operation.OperationID, strings.ToUpper(method), path, reached)
			}
		}
	}
}

// tablesFit checks that each field which a table shows is one that fleetd
// answers with.
func tablesFit(t *testing.T, doc document) {
	t.Helper()
	for name, row := range map[string]any{
		"Release": release{}, "Cohort": cohort{}, "Device": device{}, "Target": target{}, "Install": install{}, "Rollout": rollout{}, "Wave": wave{}, "RolloutDevice": outcome{},
		"Event": event{}, "AuditEntry": auditRow{}, "Report": historyRow{}, "Log": logRow{}, "Command": command{}, "Alert": alert{},
		"DeadLetter": deadLetter{}, "Who": who{},
	} {
		schema, ok := doc.Components.Schemas[name]
		if !ok {
			t.Errorf("fleetd knows no %s", name)
			continue
		}
		for i := range reflect.TypeOf(row).NumField() {
			field := reflect.TypeOf(row).Field(i).Tag.Get("json")
			if _, ok := schema.Properties[field]; !ok {
				t.Errorf("fleetd's %s has no %s", name, field)
			}
		}
	}
}

// TestChangesHoldForWhatTheOperatorSaw: every command that changes something
// sends If-Match, of what it has just fetched or of --revision, and ends with
// an exit code of its own when it is stale.
func TestChangesHoldForWhatTheOperatorSaw(t *testing.T) {
	for _, args := range [][]string{
		{"device", "set", "x", "--region", "eu"}, {"cohort", "update", "x", "--description", ""}, {"cohort", "delete", "x"},
		{"rollout", "update", "x", "--note", "n"}, {"rollout", "start", "x"}, {"rollout", "pause", "x"}, {"rollout", "resume", "x"},
		{"rollout", "cancel", "x"}, {"rollout", "revert", "x", "--to", "1.0.0"}, {"alert", "acknowledge", "7"}, {"alert", "clear", "7"},
	} {
		var got []string
		flags := server(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got = append(got, r.Method+" "+r.Header.Get("If-Match"))
			w.Header().Set("ETag", `"7"`)
			if r.Method != http.MethodGet {
				w.WriteHeader(http.StatusPreconditionFailed)
			}
			_, _ = w.Write([]byte(`{"detail":"stale"}`))
			if r.Method != http.MethodGet && r.Method != http.MethodDelete && len(body) == 0 {
				t.Errorf("%q: no body", args)
			}
		})
		for _, c := range []struct {
			extra []string
			first string
			last  string
		}{{nil, "GET ", `"7"`}, {[]string{"--revision", "3"}, "", `"3"`}} {
			got = nil
			code, _, errOut := run(t, append(append(append([]string{}, args...), c.extra...), flags...)...)
			if code != exitStale || !strings.Contains(errOut, "stale") {
				t.Errorf("%q: exit code %d, want %d: %s", args, code, exitStale, errOut)
			}
			if n := len(got); n == 0 || c.first != "" && got[0] != c.first || c.first == "" && n != 1 || !strings.HasSuffix(got[n-1], c.last) {
				t.Errorf("%q %q: fleetd was asked %q", args, c.extra, got)
			}
		}
	}
	if code, _, errOut := run(t, "device", "set", "x", "--server", "https://h", "--token-file", os.DevNull); code != cli.Usage || !strings.Contains(errOut, "nothing to change") {
		t.Errorf("no change named: exit code %d, %s", code, errOut)
	}
}

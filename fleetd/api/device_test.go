package api_test

import (
	"net/url"
	"testing"

	"groundswell/certs/token"
	"groundswell/fleetd/api"
	"groundswell/topics"
)

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

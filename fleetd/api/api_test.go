package api_test

import (
	"strings"
	"testing"
)

func TestOpenAPIAndTheDocsPageAreServedLocally(t *testing.T) {
	w := newWorld(t)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Security    []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	w.must(200, &doc, call{method: "GET", path: "/openapi.json", as: "nobody"})
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) < 25 {
		t.Errorf("openapi %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	for path, methods := range doc.Paths {
		for method, o := range methods {
			if o.OperationID == "" || len(o.Security) == 0 {
				t.Errorf("%s %s: no id or no security", method, path)
			}
		}
	}
	for _, path := range []string{"/docs", "/docs/page.js", "/docs/page.css"} {
		a := w.must(200, nil, call{method: "GET", path: path, as: "nobody"})
		if strings.Contains(string(a.raw), "://") || !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'self'") {
			t.Errorf("%s loads from elsewhere", path)
		}
	}
}

func TestOnlyWhatHonoursAnIdempotencyKeyOffersOne(t *testing.T) {
	w := newWorld(t)
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Parameters  []struct {
				Name string `json:"name"`
			} `json:"parameters"`
		} `json:"paths"`
	}
	w.must(200, &doc, call{method: "GET", path: "/openapi.json", as: "nobody"})
	honour := map[string]bool{"create-cohort": true, "create-rollout": true, "revert-rollout": true, "command-device": true}
	for _, methods := range doc.Paths {
		for _, o := range methods {
			offers := false
			for _, p := range o.Parameters {
				offers = offers || p.Name == "Idempotency-Key"
			}
			if offers != honour[o.OperationID] {
				t.Errorf("%s: offers an Idempotency-Key: %v", o.OperationID, offers)
			}
		}
	}
}

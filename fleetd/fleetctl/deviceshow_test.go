package main

import (
	"net/http"
	"strings"
	"testing"
)

const shownDevice = `{"id":"cam-1","revision":3,"model":"cam-a","hardware":"b","labels":{"floor":"2"},"mode":"polling","bucket":7,
	"heartbeat":{"mode":"polling","interval_s":960,"mode_reason":"battery","battery_pct":18},
	"versions":{"system":"1.0.0","radio":"3.0.0"},
	"targets":{"system":{"rollout":"r-1","kind":"update","state":"running","version":"1.1.0","reached":false},
		"radio":{"rollout":"r-2","kind":"update","state":"paused","version":"3.1.0","reached":true}},
	"installs":{"radio":{"rollout":"r-2","version":"3.1.0","state":"rolled_back","reason":"health-http","attempt":2,"at":"2026-01-01T00:00:00Z"}},
	"last_contact":"2026-01-02T00:00:00Z","last_check_in":"2026-01-01T00:00:00Z","check_in_ms":12,"cohorts":["eu"]}`

func TestDeviceShowsWhatItIsToldToRunAndHowFarItIs(t *testing.T) {
	flags := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/devices/cam-1":
			_, _ = w.Write([]byte(shownDevice))
		case "/v1/devices":
			_, _ = w.Write([]byte(`{"items":[` + shownDevice + `]}`))
		default:
			_, _ = w.Write([]byte(`{"items":[]}`))
		}
	})
	_, out, _ := run(t, append([]string{"device", "show", "cam-1"}, flags...)...)
	for _, line := range [][]string{
		{"contact", "polling, at least every 16m0s, because its battery is low"}, {"battery", "18 %"}, {"last check-in", "2026-01-01, took 12 ms"}, {"labels", "floor=2"},
		{"system", "1.0.0", "1.1.0 (not its turn)", "r-1"},
		{"radio", "3.0.0", "3.1.0 (paused)", "r-2", "rolled_back 3.1.0 (health-http)", "2026-01-01"},
	} {
		if !hasLine(out, line) {
			t.Errorf("no line with %q:\n%s", line, out)
		}
	}
	_, out, _ = run(t, append([]string{"device", "list"}, flags...)...)
	if want := []string{"cam-1", "1.0.0 radio=3.0.0", "1.1.0 (not its turn) radio=3.1.0 (paused)", "radio=rolled_back", "2026-01-01", "2026-01-02"}; !hasLine(out, want) {
		t.Errorf("no line with %q:\n%s", want, out)
	}
}

// hasLine reports whether a line of out holds all texts in turn.
func hasLine(out string, texts []string) bool {
next:
	for line := range strings.Lines(out) {
		for _, text := range texts {
			_, rest, ok := strings.Cut(line, text)
			if !ok {
				continue next
			}
			line = rest
		}
		return true
	}
	return false
}

//go:build noprofiles

package ops

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestWithoutProfilesItIsSaid(t *testing.T) {
	var said strings.Builder
	s := NewServer(Config{PProf: true}, NewRegistry(), slog.New(slog.NewTextHandler(&said, nil)))
	code, body := get(t, s.Handler(), "/debug/pprof/profile")
	if code != http.StatusNotImplemented || !strings.Contains(body, "without profiles") {
		t.Errorf("status %d: %s", code, body)
	}
	if !strings.Contains(said.String(), "ops.pprof") {
		t.Errorf("logged %q", said.String())
	}
}

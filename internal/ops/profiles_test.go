//go:build !noprofiles

package ops

import (
	"log/slog"
	"testing"
)

func TestProfilesAreOffUnlessAskedFor(t *testing.T) {
	for _, on := range []bool{false, true} {
		s := NewServer(Config{PProf: on}, NewRegistry(), slog.New(slog.DiscardHandler))
		if code, _ := get(t, s.Handler(), "/debug/pprof/"); (code == 200) != on {
			t.Errorf("pprof %v: status %d", on, code)
		}
	}
}

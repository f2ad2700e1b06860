//go:build !noprofiles

package ops

import (
	"log/slog"
	"net/http"
	"net/http/pprof"
)

// profiles serves Go's profiles.
func profiles(mux *http.ServeMux, _ *slog.Logger) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
}

//go:build noprofiles

package ops

import (
	"log/slog"
	"net/http"
)

// profiles says that there are none: an agent of before had them, and its configuration is
// to go on working.
func profiles(mux *http.ServeMux, log *slog.Logger) {
	log.Warn("ops.pprof is set, but this program was built without profiles (tag noprofiles)")
	mux.HandleFunc("GET /debug/pprof/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "built without profiles (tag noprofiles)", http.StatusNotImplemented)
	})
}

package api

import (
	"embed"
	"net/http"
)

//go:embed docs
var docs embed.FS

// registerDocs serves the page that shows /openapi.json. It loads nothing from
// anywhere else, and the policy forbids it to.
func (s *Server) registerDocs() {
	files := map[string]string{
		"/docs":          "text/html; charset=utf-8",
		"/docs/page.js":  "text/javascript; charset=utf-8",
		"/docs/page.css": "text/css; charset=utf-8",
	}
	for path, contentType := range files {
		name := "docs/index.html"
		if path != "/docs" {
			name = path[1:]
		}
		data, err := docs.ReadFile(name)
		if err != nil {
			panic(err) // embedded
		}
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
			_, _ = w.Write(data) // the reader is gone if this fails
		})
	}
}

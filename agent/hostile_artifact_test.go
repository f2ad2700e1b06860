package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/fetch"
	"groundswell/certs"
	"groundswell/topics"
)

// sourceAttack is what a source does to a device that has no other, and then,
// still at it, to one that has another.
type sourceAttack struct {
	name   string
	attack handler
	// says is what the log must have while the device has no other source; with
	// reason, attempts must fail for that, and say so in the detail. None: the
	// device finds what it needs in what it is sent.
	says   string
	reason string
}

func TestHostileSourceOfArtifacts(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", good.Bytes)
	wrong := bytes.Clone(good.Bytes)
	for i := range wrong {
		wrong[i] ^= 1
	}
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(f.serve)) // of nobody that the fleet knows
	t.Cleanup(elsewhere.Close)
	device := must[certs.Credential](t)(f.ca.IssueDevice("cam-thief", model, hardware, time.Hour))
	stranger := httptest.NewUnstartedServer(http.HandlerFunc(f.serve)) // of the fleet, and not fleetd
	stranger.TLS = must2(certs.PublicServerTLS(certs.TLSOptions{Credential: device, Authority: f.ca.Authority()}))(t)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)

	send := func(status int, body []byte, headers ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write(body)
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", strings.ReplaceAll(to, "{path}", r.URL.Path))
			w.WriteHeader(http.StatusFound)
		}
	}
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	// first begins honestly, so that the device comes back for the rest.
	first := func(then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				then(w, r)
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(good.Bytes)))
			_, _ = w.Write(good.Bytes[:1000])
			w.(interface{ Unwrap() http.ResponseWriter }).Unwrap().(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(good.Bytes)))
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := range good.Bytes {
			if _, err := w.Write(good.Bytes[i : i+1]); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	}
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	const none = ""
	for _, c := range []sourceAttack{
		{"other bytes of the right length", on("/artifacts/", send(200, wrong)), fetch.ErrWrongBytes.Error(), "wrong-bytes"},
		{"endless without a length", on("/artifacts/", endless), fetch.ErrWrongBytes.Error(), "wrong-bytes"},
		{"right and endless after it", on("/artifacts/", func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(good.Bytes)
			endless(w, r)
		}), none, none},
		{"shorter", on("/artifacts/", send(200, good.Bytes[:1000], "Content-Length", "1000")), "it has 1000 bytes instead of", none},
		{"longer by its length", on("/artifacts/", send(200, good.Bytes, "Content-Length", "999999999")), "it has 999999999 bytes instead of", none},
		{"cut off", on("/artifacts/", first(send(200, good.Bytes[:1000]))), "SHA-256 does not match|length does not match|unexpected EOF", none},
		{"nothing", on("/artifacts/", send(204, nil)), "answers 204", none},
		{"one byte now and then", on("/artifacts/", drip), fetch.ErrSlow.Error(), none},
		{"silence", on("/artifacts/", silent), "timeout awaiting response headers", none},
		{"headers without end", on("/artifacts/", send(200, good.Bytes, "X-Long", strings.Repeat("x", 200<<10))), "header", none},
		{"redirect to a host of nobody", on("/artifacts/", redirect(elsewhere.URL+"{path}")), certs.ErrChain.Error(), none},
		{"redirect to a host of the fleet that is not fleetd", on("/artifacts/", redirect(stranger.URL+"{path}")), certs.ErrChain.Error(), none},
		{"redirect to http", on("/artifacts/", redirect("http://127.0.0.1:1{path}")), "redirect from https to http", none},
		{"redirect to a file", on("/artifacts/", redirect("file:///etc/passwd")), "redirect from https to file", none},
		{"redirect in a circle", on("/artifacts/", redirect("{path}")), "too many redirects", none},
		{"gzip", on("/artifacts/", send(200, good.Bytes, "Content-Encoding", "gzip")), fetch.ErrEncoding.Error(), none},
		{"brotli", on("/artifacts/", send(200, good.Bytes, "Content-Encoding", "br")), fetch.ErrEncoding.Error(), none},
		{"zstd", on("/artifacts/", send(200, good.Bytes, "Content-Encoding", "zstd")), fetch.ErrEncoding.Error(), none},
		{"gzip of a range", on("/artifacts/", first(send(206, good.Bytes[1000:], "Content-Encoding", "gzip"))), fetch.ErrEncoding.Error(), none},
		{"a range that was not asked for", on("/artifacts/", send(206, good.Bytes, "Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(good.Bytes)-1, len(good.Bytes)))), "it sent the range", none},
		{"another range", on("/artifacts/", first(send(206, good.Bytes[999:], "Content-Range", fmt.Sprintf("bytes 999-%d/%d", len(good.Bytes)-1, len(good.Bytes))))), "it sent the range", none},
		{"a range of something longer", on("/artifacts/", first(send(206, good.Bytes[1000:], "Content-Range", fmt.Sprintf("bytes 1000-%d/%d", len(good.Bytes)+9, len(good.Bytes)+10)))), "it sent the range", none},
		{"a range without saying which", on("/artifacts/", first(send(206, good.Bytes[1000:]))), "it sent the range", none},
		{"several ranges", on("/artifacts/", first(send(206, good.Bytes, "Content-Type", "multipart/byteranges; boundary=x"))), "it sent the range", none},
		{"the right range of wrong bytes", on("/artifacts/", first(send(206, wrong[1000:], "Content-Range", fmt.Sprintf("bytes 1000-%d/%d", len(good.Bytes)-1, len(good.Bytes))))), fetch.ErrWrongBytes.Error(), "wrong-bytes"},
		{"all instead of the range and wrong", on("/artifacts/", first(send(200, wrong))), fetch.ErrWrongBytes.Error(), "wrong-bytes"},
		{"no such range for ever", on("/artifacts/", first(send(416, nil))), "it does not have the range", none},
		{"refused", on("/artifacts/", send(403, nil)), "answers 403", none},
		{"not modified", on("/artifacts/", send(304, nil)), "answers 304", none},
		{"hung up on", on("/artifacts/", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "EOF", none},
	} {
		t.Run(c.name, func(t *testing.T) { f.sourceAttacks(t, c, image.SHA256, entry(image)) })
	}
}

// sourceAttacks plays one attack to its end.
func (f *fleet) sourceAttacks(t *testing.T, c sourceAttack, digest string, e topics.Entry) {
	t.Parallel()
	id := "cam-" + topicsafe(c.name)
	cohort := "of-" + id
	s := f.hostileSource(t, c.attack)
	d := f.newDevice(t, id, "fetch: {stall: 500ms, min_rate: 100000}\n")
	e.Attempts = 1000
	f.manifest(cohort, e)
	f.assign(id, []string{cohort}, func(a *topics.Assignment) { a.Sources = []string{s.URL} })
	d.start("")
	d.eventually("the exact error", func() error {
		if c.says == "" {
			return nil
		}
		if c.reason != "" {
			return d.failsWith(e.Rollout, c.reason, c.says)
		}
		var err error
		for says := range strings.SplitSeq(c.says, "|") {
			if err = d.logged(says); err == nil {
				return nil
			}
		}
		return err
	})
	if c.says != "" {
		d.unharmed()
		// The attacker goes on, and is asked first.
		f.assign(id, []string{cohort}, func(a *topics.Assignment) { a.Sources = []string{s.URL, f.source.URL} })
	}
	d.committed(e.Rollout, "1.1.0", digest)
	if n := s.sent(); n > maxSent {
		t.Errorf("the device let itself be sent %d MB in one answer", n>>20)
	}
}

// topicsafe makes an id of a name.
func topicsafe(name string) string {
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	return strings.Trim(id[:min(len(id), 40)], "-")
}

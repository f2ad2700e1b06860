package peers_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// TestDocumentsAreGivenByDigestOnly: the index of what is made, or what runs, and the lists
// of releases that the device has.
func TestDocumentsAreGivenByDigestOnly(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	made, runs, list := newFile(t, 1, 1<<20), newFile(t, 2, 1<<20), []byte("a list of releases")
	s := serving(t, ca, func(o *peers.Options) {
		o.Contents = func(artifact string) (peers.Contents, bool) {
			return peers.Contents{Length: int64(len(runs.data)), Open: func() (peers.ReadAtCloser, error) { return closing{bytes.NewReader(runs.data)}, nil }}, artifact == runs.name
		}
		o.Document = func(sha256 string) []byte {
			if sha256 == sum(list) {
				return list
			}
			return nil
		}
	})
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	s.Join(made.name, made.index, made.path)
	for _, want := range [][]byte{made.index.Bytes(), list} {
		if status, body := get(t, c, s, "/documents/"+sum(want)); status != http.StatusOK || !bytes.Equal(body, want) {
			t.Errorf("%d, %d bytes", status, len(body))
		}
	}
	unknown := "/documents/" + sum(runs.index.Bytes())
	for _, path := range []string{unknown, "/documents/", "/documents/" + made.name, "/documents/" + sum(list)[:63], "/documents/" + strings.ToUpper(sum(list)), "/documents/" + made.index.Blocks[0].Name()} {
		if status, body := get(t, c, s, path); status != http.StatusNotFound || len(body) > 100 {
			t.Errorf("%s: %d, %d bytes", path, status, len(body))
		}
	}
	// Nobody has asked for what runs before, so its blocks are not known.
	if status, _ := get(t, c, s, "/artifacts/"+runs.name, "Prefer", "wait=30"); status != http.StatusOK {
		t.Errorf("what runs: %d", status)
	}
	devtest.Eventually(t, devtest.Patience, "the index of what runs", devtest.True(func() bool {
		status, body := get(t, c, s, unknown)
		return status == http.StatusOK && bytes.Equal(body, runs.index.Bytes())
	}))
}

type closing struct{ *bytes.Reader }

func (closing) Close() error { return nil }

// documents says that it has an artifact, and answers for documents as it likes.
func documents(asked *atomic.Int64, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/documents/") {
			_ = json.NewEncoder(w).Encode(map[string]any{"have": 1})
			return
		}
		asked.Add(1)
		answer(w, r)
	}
}

// TestADocumentIsTakenFromWhoGivesIt: who gives something else is dropped, before more of it
// is taken than there should be; who does not know what is asked for is not blamed.
func TestADocumentIsTakenFromWhoGivesIt(t *testing.T) {
	f := newFile(t, 1, 1<<20)
	want := f.index.Bytes()
	wrong := bytes.Clone(want)
	wrong[len(wrong)-1]++
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		blamed bool
	}{
		"does not know it": {http.NotFound, false},
		"had it":           {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, false},
		"other bytes":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(wrong) }, true},
		"longer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(1<<40))
			_, _ = w.Write(want)
		}, true},
		"without an end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(want); err != nil {
					return
				}
			}
		}, true},
		"hangs up": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(want)))
			_, _ = w.Write(want[:100])
			_ = http.NewResponseController(w).Flush() // or it would be asked again by HTTP itself
			panic(http.ErrAbortHandler)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := peerstest.CA(t, peerstest.Domain)
			var asked atomic.Int64
			other := peerstest.Serve(t, ca, "other", documents(&asked, c.answer))
			s := among(t, ca, other)
			for range 2 {
				if raw, err := s.Document(t.Context(), f.name, sum(want), int64(len(want))); !errors.Is(err, peers.ErrNobody) || raw != nil {
					t.Fatalf("%d bytes, %v", len(raw), err)
				}
			}
			if got := asked.Load(); got != 1 && c.blamed || got != 2 && !c.blamed {
				t.Errorf("asked %d times", got)
			}
			if s.Near(f.name) == c.blamed {
				t.Errorf("it may have something: %v", !c.blamed)
			}
			good := peerstest.Serve(t, ca, "good", documents(&asked, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(want) }))
			s = among(t, ca, other, good)
			if raw, err := s.Document(t.Context(), f.name, sum(want), int64(len(want))); err != nil || !bytes.Equal(raw, want) {
				t.Errorf("another one has it: %d bytes, %v", len(raw), err)
			}
		})
	}
}

// among is a device that knows others at these places.
func among(t *testing.T, ca *certs.CA, static ...string) *peers.Site {
	t.Helper()
	s := peerstest.Site(t, ca, "cam-1", "127.0.0.1:0", static, nil)
	devtest.Eventually(t, devtest.Patience, "the device to take part", devtest.True(func() bool { return s.Out() == "" }))
	return s
}

// TestADocumentThatIsTooLongIsNotAskedFor, nor one without a digest, nor by who takes no part.
func TestADocumentThatIsTooLongIsNotAskedFor(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	var asked atomic.Int64
	f := newFile(t, 1, 1<<20)
	other := peerstest.Serve(t, ca, "other", func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	s := among(t, ca, other)
	for _, c := range []struct {
		digest string
		length int64
	}{{f.name, 8<<20 + 1}, {f.name, 0}, {f.name, -1}, {f.name[:62], 100}, {f.name + "00", 100}, {strings.Repeat("x", 64), 100}} {
		if _, err := s.Document(t.Context(), f.name, c.digest, c.length); !errors.Is(err, peers.ErrNobody) {
			t.Errorf("%.80s of %d bytes: %v", c.digest, c.length, err)
		}
	}
	var none *peers.Site
	if _, err := none.Document(t.Context(), f.name, f.name, 100); !errors.Is(err, peers.ErrNobody) || none.Near(f.name) {
		t.Errorf("without peers: %v", err)
	}
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
}

package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

var firmware = func() []byte {
	b := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}()

func artifact() Artifact {
	sum := sha256.Sum256(firmware)
	return Artifact{Length: int64(len(firmware)), SHA256: hex.EncodeToString(sum[:])}
}

// source is an HTTP server that answers as the handlers say, one after the
// other, the last one for ever.
type source struct {
	*httptest.Server
	mu     sync.Mutex // guards ranges
	ranges []string   // of the requests
}

func newSource(t *testing.T, handlers ...http.HandlerFunc) *source {
	s := &source{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		h := handlers[min(len(s.ranges), len(handlers)-1)]
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		s.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	return s
}

func (s *source) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ranges)
}

// honest serves as fleetd does.
func honest(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"`+artifact().SHA256+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(firmware))
}

// cutAt sends n bytes and drops the connection.
func cutAt(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)))
		_, _ = w.Write(firmware[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func client(t *testing.T, sources ...string) *Client {
	c := New(Config{Sources: func() []string { return sources }, BackoffMin: time.Millisecond, BackoffMax: 2 * time.Millisecond, Stall: 20 * time.Second})
	t.Cleanup(c.Close)
	return c
}

func mustBe(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the file has %d bytes, and not the right ones", len(got))
	}
}

func TestDownloadGoesOnWhereItStopped(t *testing.T) {
	s := newSource(t, cutAt(100_000), honest)
	path := filepath.Join(t.TempDir(), "staging")
	var last int64
	if err := client(t, s.URL).Artifact(t.Context(), artifact(), path, func(n int64) { last = n }); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	got := s.asked()
	if len(got) != 2 || got[0] != "" || !strings.HasPrefix(got[1], "bytes=") || got[1] == "bytes=0-" {
		t.Errorf("ranges %q", got)
	}
	if last != int64(len(firmware)) {
		t.Errorf("progress ended at %d", last)
	}
	// All there: nobody is asked.
	if err := client(t).Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
}

func TestHostileSourcesNeverYieldOtherBytes(t *testing.T) {
	wrong := bytes.Clone(firmware)
	wrong[7] ^= 1
	serve := func(change func(http.Header), status int, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if change != nil {
				change(w.Header())
			}
			w.WriteHeader(status)
			_, _ = w.Write(body)
		}
	}
	header := func(k, v string) func(http.Header) { return func(h http.Header) { h.Set(k, v) } }
	part := func(t *testing.T, content []byte) string {
		path := filepath.Join(t.TempDir(), "staging")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rest := func(from int) string { return fmt.Sprintf("bytes %d-%d/%d", from, len(firmware)-1, len(firmware)) }
	cases := []struct {
		name string
		have []byte
		bad  http.HandlerFunc
	}{
		{"range of something else", firmware[:1000], serve(header("Content-Range", rest(999)), 206, firmware[999:])},
		{"range of another length", firmware[:1000], serve(header("Content-Range", fmt.Sprintf("bytes 1000-%d/%d", len(firmware), len(firmware)+1)), 206, firmware[1000:])},
		{"range without saying which", firmware[:1000], serve(nil, 206, firmware[1000:])},
		{"range nobody asked for", nil, serve(header("Content-Range", rest(1000)), 206, firmware[1000:])},
		{"range of another tag", firmware[:1000], serve(func(h http.Header) {
			h.Set("Content-Range", rest(1000))
			h.Set("ETag", `"other"`)
		}, 206, wrong[1000:])},
		{"right range, wrong bytes", firmware[:1000], serve(header("Content-Range", rest(1000)), 206, make([]byte, len(firmware)-1000))},
		{"whole instead of the range", firmware[:1000], serve(nil, 200, firmware)},
		{"no such range", firmware[:1000], serve(nil, 416, nil)},
		{"part on disk is wrong", wrong[:1000], honest},
		{"all on disk, but wrong", wrong, honest},
		{"more on disk than there is", append(bytes.Clone(firmware), 1), honest},
		{"wrong bytes", nil, serve(nil, 200, wrong)},
		{"too short", nil, serve(nil, 200, firmware[:5000])},
		{"too long", nil, serve(nil, 200, append(bytes.Clone(wrong), 1, 2, 3))},
		{"endless", nil, func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}},
		{"cut off", nil, cutAt(77_777)},
		{"compressed after all", nil, serve(header("Content-Encoding", "gzip"), 200, []byte{31, 139, 8, 0})},
		{"refused", nil, serve(nil, 403, []byte("no"))},
		{"server error", nil, serve(nil, 503, nil)},
		{"missing", nil, serve(nil, 404, nil)},
		{"sends on to nowhere", nil, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := part(t, c.have)
			s := newSource(t, c.bad, honest)
			if err := client(t, s.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
				t.Fatal(err)
			}
			mustBe(t, path, firmware)
		})
	}
}

func TestDownloadGivesUpWhenAllSourcesAreWrong(t *testing.T) {
	bad := func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, len(firmware))) }
	endless := func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}
	a, b := newSource(t, bad), newSource(t, endless)
	path := filepath.Join(t.TempDir(), "staging")
	err := client(t, a.URL, b.URL).Artifact(t.Context(), artifact(), path, nil)
	if !errors.Is(err, ErrWrongBytes) {
		t.Fatalf("got %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > int64(len(firmware)) {
		t.Fatalf("%v, %v", info, err)
	}
}

func TestOneLyingSourceDoesNotSpoilTheOthers(t *testing.T) {
	bad := newSource(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, len(firmware))) })
	down := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }
	good := newSource(t, down, down, down, down, down, honest)
	path := filepath.Join(t.TempDir(), "staging")
	if err := client(t, bad.URL, good.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	if n := len(bad.asked()); n != maxWrong {
		t.Errorf("the liar was asked %d times", n)
	}
}

func TestStalledSourceIsLeft(t *testing.T) {
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	s := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)))
		_, _ = w.Write(firmware[:1000])
		w.(http.Flusher).Flush()
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}, honest)
	c := client(t, s.URL)
	c.cfg.Stall, c.cfg.MinRate = 50*time.Millisecond, 1 // a byte is enough, and does not come
	path := filepath.Join(t.TempDir(), "staging")
	if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
}

func TestDownloadEndsWithItsContextAndKeepsThePart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSource(t, cutAt(50_000), func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	path := filepath.Join(t.TempDir(), "staging")
	if err := client(t, s.URL).Artifact(ctx, artifact(), path, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Fatalf("the part is gone: %v, %v", info, err)
	}
}

func TestFullDiskIsReportedAsSuch(t *testing.T) {
	s := newSource(t, honest)
	if err := client(t, s.URL).Artifact(t.Context(), artifact(), "/dev/full", nil); err == nil || !strings.Contains(err.Error(), "no space") {
		// Truncating a device fails differently on some kernels: any error of the
		// disk ends it.
		if err == nil {
			t.Fatal("no error")
		}
	}
}

func TestMetadataIsBoundedAndItsAbsenceToldApart(t *testing.T) {
	files := map[string]string{
		"/repository/image/2.root.json":     "root",
		"/repository/image/7.snapshot.json": "snapshot",
		"/repository/image/9.targets.json":  "targets",
	}
	good := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		if body, ok := files[r.URL.Path]; ok {
			_, _ = w.Write([]byte(body))
			return
		}
		http.NotFound(w, r)
	})
	bad := newSource(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	empty := newSource(t, http.NotFound)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()

	ctx := t.Context()
	read := func(get func(accept func([]byte) error) error) (data string, err error) {
		err = get(func(raw []byte) error { data = string(raw); return nil })
		return data, err
	}
	root := func(sources ...string) error {
		_, err := read(func(accept func([]byte) error) error { return client(t, sources...).Root(ctx, trust.Image, 3, accept) })
		return err
	}
	c := client(t, down.URL, bad.URL, empty.URL, good.URL+"/")
	for name, get := range map[string]func(func([]byte) error) error{
		"root": func(accept func([]byte) error) error { return c.Root(ctx, trust.Image, 2, accept) },
		"snapshot": func(accept func([]byte) error) error {
			return c.Snapshot(ctx, topics.SnapshotPin{Version: 7, Length: 8}, accept)
		},
		"targets": func(accept func([]byte) error) error {
			return c.Targets(ctx, trust.TargetsPin{Version: 9, Length: 7}, accept)
		},
	} {
		if got, err := read(get); err != nil || got != name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, c := range []struct {
		name    string
		sources []string
		want    error
		not     error
	}{
		{"newest root", []string{good.URL, empty.URL}, ErrNotFound, ErrUnsure},
		{"a source that is down may have it", []string{empty.URL, down.URL}, ErrUnsure, ErrNotFound},
		{"so may one that sends rubbish", []string{bad.URL, empty.URL}, ErrUnsure, ErrTooLarge},
		{"oversized", []string{bad.URL}, ErrTooLarge, ErrUnsure},
		{"oversized, and another that does not answer", []string{bad.URL, down.URL}, syscall.ECONNREFUSED, ErrTooLarge},
		{"no source", nil, ErrNoSource, ErrUnsure},
	} {
		if err := root(c.sources...); !errors.Is(err, c.want) || errors.Is(err, c.not) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What one source sends is refused by whoever knows the signatures: another may
// have the real one.
func TestRefusedMetadataIsAskedOfTheNextSource(t *testing.T) {
	lie := newSource(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"signed":"lie"}`)) })
	portal := newSource(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>Log in first")) })
	packed := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte("root"))
	})
	good := newSource(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("root")) })
	refused := errors.New("not signed")
	accept := func(raw []byte) error {
		if string(raw) != "root" {
			return refused
		}
		return nil
	}
	if err := client(t, lie.URL, packed.URL, good.URL).Root(t.Context(), trust.Image, 2, accept); err != nil {
		t.Fatal(err)
	}
	if err := client(t, lie.URL, packed.URL).Root(t.Context(), trust.Image, 2, accept); !errors.Is(err, refused) || !errors.Is(err, ErrEncoding) || !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v", err)
	}
	// Where others cannot be asked, it is not known what is wrong, but that one has answered.
	down := newSource(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if err := client(t, lie.URL, down.URL).Root(t.Context(), trust.Image, 2, accept); errors.Is(err, refused) || !errors.Is(err, ErrRefused) {
		t.Fatalf("got %v", err)
	}
	for _, sources := range [][]string{{down.URL}, {portal.URL}, {portal.URL, down.URL}, {packed.URL}} { // none has sent metadata
		if err := client(t, sources...).Root(t.Context(), trust.Image, 2, accept); err == nil || errors.Is(err, ErrRefused) {
			t.Fatalf("%v: got %v", sources, err)
		}
	}
}

func TestNoRedirectFromHTTPSToHTTP(t *testing.T) {
	from, _ := http.NewRequest("GET", "https://a/x", nil)
	to, _ := http.NewRequest("GET", "http://a/x", nil)
	if redirect(to, []*http.Request{from}) == nil {
		t.Error("followed")
	}
	if err := redirect(from, []*http.Request{from}); err != nil {
		t.Error(err)
	}
}

package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
)

// blockIndex is the index of an artifact that nobody has, always the same for a seed.
func blockIndex(seed byte, blocks int) block.Index {
	r := rand.NewChaCha8([32]byte{seed})
	x := block.Index{Normal: 64 << 10}
	for range blocks {
		b := block.Block{Offset: x.Length, Length: 16<<10 + int(r.Uint64()%(200<<10))}
		_, _ = r.Read(b.SHA256[:]) // never fails
		x.Blocks, x.Length = append(x.Blocks, b), x.Length+int64(b.Length)
	}
	return x
}

// mixed is old with so many of its first blocks exchanged for those of another index.
func mixed(old, other block.Index, blocks int) block.Index {
	x := block.Index{Normal: old.Normal}
	for _, b := range slices.Concat(other.Blocks[:blocks], old.Blocks[blocks:]) {
		b.Offset = x.Length
		x.Blocks, x.Length = append(x.Blocks, b), x.Length+int64(b.Length)
	}
	return x
}

func store(t *testing.T, blobs *artifact.Blobs, all ...[]byte) {
	t.Helper()
	for _, raw := range all {
		if _, err := blobs.Put(context.Background(), digest(raw), int64(len(raw)), bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	}
}

func serveIndexes(t *testing.T, blobs *artifact.Blobs) *httptest.Server {
	t.Helper()
	return serve(t, blobs, func(c *artifact.DownloadsConfig) { c.IndexDeltas = artifact.NewIndexDeltas(blobs) })
}

func between(new, old []byte) string { return "/indexes/" + digest(new) + "/from/" + digest(old) }

// decoded is what a device makes of a delta.
func decoded(t *testing.T, raw, old, new []byte) []byte {
	t.Helper()
	made, err := delta.Patch(raw, old, int64(len(new)))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// TestABlockIndexComesAsADelta: of the one that the device has, by whatever listener.
func TestABlockIndexComesAsADelta(t *testing.T) {
	onBoth(t, 64<<20, func(t *testing.T, blobs *artifact.Blobs, dir string) {
		a := blockIndex(1, 600)
		old, new := a.Bytes(), mixed(a, blockIndex(2, 20), 20).Bytes()
		store(t, blobs, old, new)
		server := serve(t, blobs, func(c *artifact.DownloadsConfig) {
			c.IndexDeltas = artifact.NewIndexDeltas(blobs)
			c.Signatures, c.RedirectTo = signatures(t, time.Hour, keyA), "https://elsewhere.example.com"
		})
		path := server.URL + between(new, old)
		resp, raw := get(t, path)
		etag := `"` + digest(raw) + `"`
		if resp.StatusCode != 200 || resp.Header.Get("ETag") != etag || resp.Header.Get("Cache-Control") != "public, max-age=3600" {
			t.Fatalf("%s %v", resp.Status, resp.Header)
		}
		if !bytes.Equal(decoded(t, raw, old, new), new) {
			t.Fatal("it makes something else")
		}
		t.Logf("%d bytes to make %d of %d", len(raw), len(new), len(old))
		if len(raw) > len(new)/10 {
			t.Errorf("%d bytes to make %d", len(raw), len(new))
		}
		if resp, body := get(t, path, "If-None-Match", etag); resp.StatusCode != 304 || len(body) > 0 {
			t.Errorf("known: %s", resp.Status)
		}
		if resp, body := get(t, path, "Range", "bytes=3-9", "If-Range", etag); resp.StatusCode != 206 || !bytes.Equal(body, raw[3:10]) {
			t.Errorf("a range: %s", resp.Status)
		}
		if resp, _ := get(t, path, "Range", "bytes=0-0,1-1,2-2,3-3,4-4"); resp.StatusCode != 416 {
			t.Errorf("many ranges: %s", resp.Status)
		}
		resp, err := http.Head(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // of no bytes
		if resp.StatusCode != 200 || resp.ContentLength != int64(len(raw)) || resp.Header.Get("ETag") != etag {
			t.Errorf("HEAD: %s, %d bytes", resp.Status, resp.ContentLength)
		}
		// Another replica has the same bytes.
		if _, other := get(t, serveIndexes(t, blobs).URL+between(new, old)); !bytes.Equal(other, raw) {
			t.Error("another replica has others")
		}
		// What is remembered needs nobody.
		remove(t, dir, old, new)
		if resp, again := get(t, path); resp.StatusCode != 200 || !bytes.Equal(again, raw) {
			t.Errorf("once more: %s", resp.Status)
		}
	})
}

func remove(t *testing.T, dir string, all ...[]byte) {
	t.Helper()
	for _, raw := range all {
		if err := os.Remove(filepath.Join(dir, digest(raw)[:2], digest(raw))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhereThereIsNoDeltaOfABlockIndex(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "artifacts")
	blobs, err := artifact.OpenBlobs(dir, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	a := blockIndex(1, 100)
	old, new, strange := a.Bytes(), mixed(a, blockIndex(2, 5), 5).Bytes(), blockIndex(3, 100).Bytes()
	large, other := blockIndex(1, 30_000).Bytes(), slices.Concat([]byte("not "), old) // which are alike
	later := mixed(a, blockIndex(2, 9), 9).Bytes()
	store(t, blobs, old, new, strange, large, other)
	server := serveIndexes(t, blobs)
	ask := func(path string) (status int, caching string) {
		resp, _ := get(t, server.URL+path)
		return resp.StatusCode, resp.Header.Get("Cache-Control")
	}
	const never, soon, notYet = "", "public, max-age=3600", "no-cache"
	for name, c := range map[string]struct{ path, caching string }{
		"unknown old":       {between(new, later), notYet},
		"unknown new":       {between(later, old), notYet},
		"nothing in common": {between(strange, old), soon},
		"old is no index":   {between(new, other), soon},
		"new is no index":   {between(other, old), soon},
		"old is too large":  {between(new, large), soon},
		"new is too large":  {between(large, old), soon},
		"no digest":         {"/indexes/" + digest(new) + "/from/x", never},
		"upper case":        {"/indexes/" + digest(new) + "/from/" + strings.ToUpper(digest(old)), never},
		"a path":            {"/indexes/" + digest(new) + "/from/..%2f" + digest(old), never},
		"neither":           {"/indexes/x/from/y", never},
		"no old":            {"/indexes/" + digest(new), never},
		"a list":            {"/indexes/" + digest(new) + "/from/", never},
	} {
		if status, caching := ask(c.path); status != 404 || caching != c.caching {
			t.Errorf("%s: %d, Cache-Control %q, want %q", name, status, caching, c.caching)
		}
	}
	store(t, blobs, later)
	for name, path := range map[string]string{"to": between(later, old), "from": between(new, later)} {
		if status, _ := ask(path); status != 200 {
			t.Errorf("%s what is there by now: %d", name, status)
		}
	}
	// What was not worth it is not looked at again.
	remove(t, dir, strange, other)
	for _, path := range []string{between(strange, old), between(new, other)} {
		if status, caching := ask(path); status != 404 || caching != soon {
			t.Errorf("looked at again: %d %q", status, caching)
		}
	}
	// The length is what a preview asks for.
	deltas := artifact.NewIndexDeltas(blobs)
	_, raw := get(t, server.URL+between(new, old))
	if n, err := deltas.Length(t.Context(), digest(new), digest(old)); err != nil || n != int64(len(raw)) {
		t.Errorf("%d bytes, %v; the delta has %d", n, err, len(raw))
	}
	for sha256, want := range map[string]error{digest(large): artifact.ErrNoIndexDelta, digest(strange): artifact.ErrNoArtifact, "x": artifact.ErrName} {
		if _, err := deltas.Length(t.Context(), digest(new), sha256); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// TestDeltasOfBlockIndexesAreForgotten, the oldest first, so that they take no more memory
// than they may.
func TestDeltasOfBlockIndexesAreForgotten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "artifacts")
	blobs, err := artifact.OpenBlobs(dir, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	server := serveIndexes(t, blobs)
	const blocks, most = 28_000, 4 << 20
	a := blockIndex(1, 500)
	old, repeated := a.Bytes(), a
	for len(repeated.Blocks) < blocks { // so that there is little to sort
		repeated.Blocks = append(repeated.Blocks, a.Blocks...)
	}
	store(t, blobs, old)
	var all [][]byte
	for made := 0; made <= most; {
		new := mixed(repeated, blockIndex(byte(2+len(all)), blocks), blocks*2/3).Bytes()
		store(t, blobs, new)
		resp, raw := get(t, server.URL+between(new, old))
		if resp.StatusCode != 200 {
			t.Fatalf("%d of %d bytes: %s", len(raw), len(new), resp.Status)
		}
		all, made = append(all, new), made+len(raw)
	}
	remove(t, dir, all...)
	kept := 0
	for i, new := range all {
		resp, raw := get(t, server.URL+between(new, old))
		if resp.StatusCode == 200 {
			kept += len(raw)
		}
		if i == 0 && resp.StatusCode != 404 || kept > 0 && resp.StatusCode != 200 {
			t.Errorf("delta %d of %d: %s", i, len(all), resp.Status)
		}
	}
	if kept > most || kept < most/2 {
		t.Errorf("%d bytes are remembered, at most %d may be", kept, most)
	}
}

// slow stands before a store and holds what is read of it until it may go on.
type slow struct {
	*artifact.Blobs
	mu   sync.Mutex // guards what follows
	read map[string]int
	look map[string]int
	hold map[string]chan struct{} // closed: go on
}

// slowly opens the store through one.
func slowly(t *testing.T, s *s3) *slow {
	t.Helper()
	w := &slow{read: map[string]int{}, look: map[string]int{}, hold: map[string]chan struct{}{}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.addr})
	proxy.ErrorLog = log.New(t.Output(), "", 0)
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		name := filepath.Base(r.URL.Path)
		w.mu.Lock()
		held := w.hold[name]
		if r.Method == http.MethodGet {
			w.read[name]++
		}
		w.mu.Unlock()
		if r.Method == http.MethodGet && held != nil {
			select {
			case <-held:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(rw, r)
		if r.Method == http.MethodHead {
			w.mu.Lock()
			w.look[name]++
			w.mu.Unlock()
		}
	}))
	t.Cleanup(front.Close)
	blobs, err := artifact.OpenBlobsURL(t.Context(), strings.Replace(s.url(), s.addr, front.Listener.Addr().String(), 1), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	w.Blobs = blobs
	return w
}

// holds holds what is read of raw until release is called.
func (w *slow) holds(raw []byte) (release func()) {
	held := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold[digest(raw)] = held
	return sync.OnceFunc(func() { close(held) })
}

// asked is how often somebody began to read raw, or has looked whether it is there.
func (w *slow) asked(raw []byte) (read, look int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.read[digest(raw)], w.look[digest(raw)]
}

// TestDeltasOfBlockIndexesAreMadeOneAtATime: once for all who ask, and who gives up holds
// up nobody.
func TestDeltasOfBlockIndexesAreMadeOneAtATime(t *testing.T) {
	s := startS3(t)
	a := blockIndex(1, 300)
	old, new := a.Bytes(), mixed(a, blockIndex(2, 9), 9).Bytes()
	old2, new2 := mixed(a, blockIndex(3, 9), 9).Bytes(), mixed(a, blockIndex(4, 9), 9).Bytes()
	store(t, s.open(1<<20), old, new, old2, new2)
	blobs, registry := slowly(t, s), ops.NewRegistry()
	server := serve(t, blobs.Blobs, func(c *artifact.DownloadsConfig) {
		c.IndexDeltas, c.Metrics = artifact.NewIndexDeltas(blobs.Blobs), artifact.NewMetrics(registry)
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	// ask asks, and sends what it got.
	ask := func(ctx context.Context, path string) <-chan []byte {
		got := make(chan []byte, 1)
		wg.Go(func() {
			defer close(got)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			w := httptest.NewRecorder()
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return // given up
			}
			defer resp.Body.Close()
			if _, err := w.Body.ReadFrom(resp.Body); err == nil && resp.StatusCode == 200 {
				got <- w.Body.Bytes()
			}
		})
		return got
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		devtest.Eventually(t, time.Minute, what, func() error {
			if !ok() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	running := func(n int) func() bool {
		return func() bool {
			return strings.Contains(scrape(registry), fmt.Sprintf(`groundswell_downloads_running{kind="index"} %d`+"\n", n))
		}
	}

	release := blobs.holds(old)
	defer release()
	var same []<-chan []byte
	for range 5 {
		same = append(same, ask(t.Context(), between(new, old)))
	}
	eventually("five to have looked, and one to read", func() bool {
		read, look := blobs.asked(old)
		_, lookNew := blobs.asked(new)
		return read == 1 && look == 5 && lookNew == 5
	})
	// One that waits for another delta is given up.
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	impatient := ask(ctx, between(new2, old2))
	eventually("a sixth to have looked", func() bool {
		_, look := blobs.asked(new2)
		return look == 1 && running(6)()
	})
	giveUp()
	if _, ok := <-impatient; ok {
		t.Error("one that gave up was answered")
	}
	eventually("it to be gone", running(5))
	if read, _ := blobs.asked(old2); read != 0 {
		t.Errorf("another index was read %d times while a delta was made", read)
	}
	// The other way round: one waits, and whoever is at work gives up.
	release()
	for _, got := range same {
		if raw := <-got; !bytes.Equal(decoded(t, raw, old, new), new) {
			t.Error("something else is made")
		}
	}
	for name, raw := range map[string][]byte{"old": old, "new": new} {
		if read, _ := blobs.asked(raw); read != 1 {
			t.Errorf("for five who asked at once the %s index was read %d times", name, read)
		}
	}
	eventually("all to be gone", running(0))
	hold := blobs.holds(old2)
	defer hold()
	ctx, giveUp = context.WithCancel(t.Context())
	defer giveUp()
	ask(ctx, between(new2, old2))
	eventually("it to be at work", func() bool { read, _ := blobs.asked(old2); return read == 1 })
	patient := ask(t.Context(), between(new, old2))
	eventually("another to wait", running(2))
	giveUp()
	hold()
	if raw := <-patient; !bytes.Equal(decoded(t, raw, old2, new), new) {
		t.Error("something else is made")
	}

	// While the store is away what is remembered is served, and nothing is said to be missing.
	s.kill()
	if resp, _ := get(t, server.URL+between(old, new)); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("away: %s %v", resp.Status, resp.Header)
	}
	if resp, _ := get(t, server.URL+between(new, old)); resp.StatusCode != 200 {
		t.Errorf("remembered: %s", resp.Status)
	}
}

// TestACacheKeepsDeltasOfBlockIndexes, and that there is none worth its bytes; not that one
// of the indexes is missing.
func TestACacheKeepsDeltasOfBlockIndexes(t *testing.T) {
	a := blockIndex(1, 100)
	old, new, strange, later := a.Bytes(), mixed(a, blockIndex(2, 5), 5).Bytes(), blockIndex(3, 100).Bytes(), blockIndex(4, 100).Bytes()
	blobs := filled(t, old)
	store(t, blobs, new, strange)
	c := startCache(t, serveIndexes(t, blobs).Config.Handler)
	for name, want := range map[string]struct {
		path          string
		status, costs int
	}{
		"a delta":       {between(new, old), 200, 1},
		"not worth it":  {between(strange, old), 404, 1},
		"not there yet": {between(later, old), 404, 3},
	} {
		before := c.asked.Load()
		for range 3 {
			resp, body, err := c.ask(want.path, nil)
			if err != nil || resp.StatusCode != want.status || want.status == 200 && !bytes.Equal(decoded(t, body, old, new), new) {
				t.Fatalf("%s: %v, %d bytes", name, err, len(body))
			}
		}
		if asked := c.asked.Load() - before; asked != int64(want.costs) {
			t.Errorf("%s: three devices cost the origin %d requests, want %d", name, asked, want.costs)
		}
	}
}

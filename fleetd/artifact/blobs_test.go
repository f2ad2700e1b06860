package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"groundswell/certs/trust"
	"groundswell/fleetd/artifact"
	"groundswell/internal/ops"
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func firmware(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // never fails
	return data
}

// files lists everything below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWhatDoesNotMatchItsNameLeavesNothingBehind(t *testing.T) {
	onBoth(t, 1<<20, mismatchesLeaveNothing)
}

func mismatchesLeaveNothing(t *testing.T, blobs *artifact.Blobs, dir string) {
	ctx := context.Background()
	data := firmware(100_000)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		sha256 string
		length int64
		source io.Reader
		want   error
	}{
		{"other bytes", ctx, digest([]byte("x")), 100_000, bytes.NewReader(data), trust.ErrDigest},
		{"too short", ctx, digest(data), 100_001, bytes.NewReader(data), trust.ErrLength},
		{"too long", ctx, digest(data), 99_999, bytes.NewReader(data), trust.ErrLength},
		{"empty", ctx, digest(nil), 0, bytes.NewReader(nil), trust.ErrLength},
		{"above the limit", ctx, digest(data), 1<<20 + 1, iotest.ErrReader(errors.New("was read")), artifact.ErrTooLarge},
		{"cut off", ctx, digest(data), 100_000, io.MultiReader(bytes.NewReader(data[:5000]), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		{"cancelled", cancelled, digest(data), 100_000, bytes.NewReader(data), context.Canceled},
		{"a path", ctx, "../../../../etc/passwd", 100_000, bytes.NewReader(data), artifact.ErrName},
		{"upper case", ctx, strings.ToUpper(digest(data)), 100_000, bytes.NewReader(data), artifact.ErrName},
	} {
		created, err := blobs.Put(c.ctx, c.sha256, c.length, c.source)
		if created || !errors.Is(err, c.want) {
			t.Errorf("%s: created %v, err %v, want %v", c.name, created, err, c.want)
		}
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := blobs.Open(ctx, digest(data)); !errors.Is(err, artifact.ErrNoArtifact) {
		t.Errorf("open: %v", err)
	}
}

func TestUploadsOfTheSameBytesAreOne(t *testing.T) { onBoth(t, 1<<20, sameBytesAreOne) }

func sameBytesAreOne(t *testing.T, blobs *artifact.Blobs, dir string) {
	data := firmware(300_000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := blobs.Put(context.Background(), digest(data), int64(len(data)), bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if stored := files(t, dir); len(stored) != 1 {
		t.Errorf("stored %v", stored)
	}
	created, err := blobs.Put(context.Background(), digest(data), int64(len(data)), bytes.NewReader(data))
	if created || err != nil {
		t.Errorf("again: created %v, err %v", created, err)
	}
	damaged := bytes.Clone(data)
	damaged[7]++
	if _, err := blobs.Put(context.Background(), digest(data), int64(len(data)), bytes.NewReader(damaged)); !errors.Is(err, trust.ErrDigest) {
		t.Errorf("damaged bytes of a stored artifact: %v", err)
	}
	f, err := blobs.Open(context.Background(), digest(data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read back %d bytes, err %v", len(got), err)
	}
}

// memory is a repository without a database.
type memory map[string][]byte

func (m memory) RepositoryFile(_ context.Context, repo trust.Repository, name string) ([]byte, error) {
	raw, ok := m[string(repo)+"/"+name]
	if !ok {
		return nil, artifact.ErrNoFile
	}
	return raw, nil
}

// serve serves the blobs and a little metadata, as told.
func serve(t *testing.T, blobs *artifact.Blobs, change func(*artifact.DownloadsConfig)) *httptest.Server {
	t.Helper()
	cfg := artifact.DownloadsConfig{
		Blobs:   blobs,
		Files:   memory{"image/1.root.json": []byte(`{"root":1}`), "image/timestamp.json": []byte(`{"timestamp":1}`)},
		Limits:  artifact.NewLimits(artifact.DefaultLimits()),
		Metrics: artifact.NewMetrics(ops.NewRegistry()),
		Log:     slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	server := httptest.NewServer(artifact.Downloads(cfg))
	t.Cleanup(server.Close)
	return server
}

func TestDownloadsResumeAndAreCacheableForEver(t *testing.T) { onBoth(t, 1<<20, downloadsResume) }

func downloadsResume(t *testing.T, blobs *artifact.Blobs, _ string) {
	data := firmware(200_000)
	if _, err := blobs.Put(context.Background(), digest(data), int64(len(data)), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	server := serve(t, blobs, nil)

	get := func(method, path string, header ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Path = path // as it is, without cleaning
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}

	path, etag := "/artifacts/"+digest(data), `"`+digest(data)+`"`
	resp, body := get("GET", path)
	if resp.StatusCode != 200 || !bytes.Equal(body, data) {
		t.Errorf("whole: %s, %d bytes", resp.Status, len(body))
	}
	if resp.Header.Get("ETag") != etag || resp.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("headers: %v", resp.Header)
	}
	resp, body = get("GET", path, "Range", "bytes=150000-", "If-Range", etag)
	if resp.StatusCode != 206 || !bytes.Equal(body, data[150_000:]) || resp.Header.Get("Content-Range") != "bytes 150000-199999/200000" {
		t.Errorf("rest: %s %s, %d bytes", resp.Status, resp.Header.Get("Content-Range"), len(body))
	}
	if resp, _ := get("GET", path, "Range", "bytes=200000-"); resp.StatusCode != 416 {
		t.Errorf("beyond the end: %s", resp.Status)
	}
	if resp, body := get("GET", path, "If-None-Match", etag); resp.StatusCode != 304 || len(body) > 0 {
		t.Errorf("if none match: %s", resp.Status)
	}
	if resp, body := get("HEAD", path); resp.StatusCode != 200 || resp.ContentLength != 200_000 || len(body) > 0 {
		t.Errorf("head: %s, length %d", resp.Status, resp.ContentLength)
	}
	for _, bad := range []string{
		"/", "/artifacts", "/artifacts/", "/artifacts/" + digest(nil), "/artifacts/" + strings.ToUpper(digest(data)),
		"/artifacts/../artifacts/x", "/artifacts/" + digest(data)[:2], "/repository/image/", "/repository/image/2.root.json",
		"/repository/other/1.root.json", "/repository/image/01.root.json", "/repository/image/root.json",
	} {
		if resp, _ := get("GET", bad); resp.StatusCode != 404 && resp.StatusCode != 307 && resp.StatusCode != 301 {
			t.Errorf("%s: %s", bad, resp.Status)
		}
	}
	if resp, _ := get("PUT", path); resp.StatusCode != 405 {
		t.Errorf("put: %s", resp.Status)
	}
	resp, body = get("GET", "/repository/image/1.root.json")
	if string(body) != `{"root":1}` || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("root: %s %v", body, resp.Header)
	}
	resp, body = get("GET", "/repository/image/timestamp.json")
	if string(body) != `{"timestamp":1}` || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("timestamp: %s %v", body, resp.Header)
	}
}

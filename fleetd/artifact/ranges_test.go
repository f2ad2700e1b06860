package artifact_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"groundswell/fleetd/artifact"
	"groundswell/internal/ops"
)

func TestHostileRanges(t *testing.T) {
	data := firmware(10_000)
	registry := ops.NewRegistry()
	server := serve(t, filled(t, data), func(c *artifact.DownloadsConfig) { c.Metrics = artifact.NewMetrics(registry) })
	path := server.URL + "/artifacts/" + digest(data)
	etag := `"` + digest(data) + `"`
	for _, c := range []struct {
		header []string // name, value, ...
		status int
		want   []byte // nil: not looked at
	}{
		{[]string{"Range", "bytes=0-0"}, 206, data[:1]},
		{[]string{"Range", "bytes=9999-"}, 206, data[9999:]},
		{[]string{"Range", "bytes=-1"}, 206, data[9999:]},
		{[]string{"Range", "bytes=-10001"}, 206, data},
		{[]string{"Range", "bytes=5-999999999999999999"}, 206, data[5:]},
		{[]string{"Range", "bytes=5-20,9990-"}, 206, nil},
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7"}, 206, nil},
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7,8-9"}, 416, nil},
		{[]string{"Range", "bytes=" + strings.Repeat("0-0,", 2000) + "0-0"}, 416, nil},
		{[]string{"Range", "bytes=0-,0-,0-"}, 200, data}, // more than all of it
		{[]string{"Range", "bytes=" + strings.Repeat("9", 300) + "-"}, 416, nil},
		{[]string{"Range", "bytes=99999999999999999999-"}, 416, nil},
		{[]string{"Range", "bytes=0-99999999999999999999"}, 416, nil},
		{[]string{"Range", "bytes=9-5"}, 416, nil},
		{[]string{"Range", "bytes=--5"}, 416, nil},
		{[]string{"Range", "bytes=0x5-"}, 416, nil},
		{[]string{"Range", "bytes=10000-"}, 416, nil},
		{[]string{"Range", "bytes="}, 200, nil},
		{[]string{"Range", "bytes"}, 200, data},
		{[]string{"Range", "pages=1-2"}, 200, data},
		{[]string{"Range", "bytes=0-1", "Range", "bytes=2-3"}, 416, nil},
		{[]string{"Range", "bytes=9000-9009", "If-Range", etag}, 206, data[9000:9010]},
		{[]string{"Range", "bytes=9000-9009", "If-Range", `"other"`}, 200, data},
		{[]string{"Range", "bytes=9000-9009", "If-Range", "W/" + etag}, 200, data}, // weak: RFC 9110, section 13.1.5
		{[]string{"Range", "bytes=9000-9009", "If-None-Match", etag}, 304, []byte{}},
		{[]string{"Range", "bytes=9000-9009", "If-Match", `"other"`}, 412, nil},
		// The conditions come before the range is looked at.
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7,8-9", "If-Range", `"other"`}, 200, data},
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7,8-9", "If-Range", etag}, 416, nil},
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7,8-9", "If-None-Match", etag}, 304, []byte{}},
		{[]string{"Range", "bytes=0-1,2-3,4-5,6-7,8-9", "If-Match", `"other"`}, 412, nil},
		{[]string{"Range", "bytes=-0", "If-None-Match", etag}, 304, []byte{}},
		{[]string{"Range", "bytes=-0"}, 416, nil},
		{[]string{"Range", "bytes= -00 "}, 416, nil},
		{[]string{"Range", "bytes=-0,-0"}, 416, nil},
		{[]string{"Range", "bytes=-0,5-6"}, 206, data[5:7]},
	} {
		resp, body := get(t, path, c.header...)
		if resp.StatusCode != c.status || c.want != nil && !bytes.Equal(body, c.want) {
			t.Errorf("%.80q: %s, %d bytes", c.header, resp.Status, len(body))
		}
		if len(body) > len(data)+1000 {
			t.Errorf("%.80q: answered with %d bytes", c.header, len(body))
		}
		if strings.Contains(resp.Header.Get("Cache-Control"), "immutable") && c.status == 416 {
			t.Errorf("%.80q: for ever", c.header)
		}
		if got := resp.Header.Get("Content-Range"); c.status == 416 && got != "" && got != "bytes */10000" {
			t.Errorf("%.80q: Content-Range %q", c.header, got)
		}
	}
	// Four lists that are too many or too long, and two headers, of those above.
	if want := `groundswell_downloads_refused_total{kind="artifact",reason="ranges"} 5`; !strings.Contains(scrape(registry), want) {
		t.Errorf("no %s in:\n%s", want, scrape(registry))
	}
	// Ranges are of GET (RFC 9110, section 14.2).
	for _, value := range []string{"bytes=0-9", "bytes=20000-", "bytes=-0", "bytes=0-1,2-3,4-5,6-7,8-9"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.ContentLength != 10_000 || resp.Header.Get("Content-Range") != "" {
			t.Errorf("HEAD %s: %s, %d bytes, %v", value, resp.Status, resp.ContentLength, resp.Header)
		}
	}
	for _, long := range []string{strings.Repeat("a", 20_000), strings.Repeat("a/", 5_000), digest(data) + "/..", strings.Repeat("%2e", 3_000)} {
		if resp, _ := get(t, server.URL+"/artifacts/"+long); resp.StatusCode != 404 && resp.StatusCode != 301 && resp.StatusCode != 307 {
			t.Errorf("%.80q: %s", long, resp.Status)
		}
	}
}

// Whatever stands in the header, the answer is one of HTTP's, is no longer than the
// artifact and a few headers, and a single range has the bytes that it says.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-", "bytes=-5", "bytes=1-2,3-4", "bytes=0-0,0-0,0-0,0-0,0-0", "bytes= 1 - 2", "bytes=-0", "bytes=1-99999999999999999999", "x=1", ""} {
		f.Add(seed)
	}
	data := firmware(1000)
	blobs, err := artifact.OpenBlobs(filepath.Join(f.TempDir(), "artifacts"), 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := blobs.Put(context.Background(), digest(data), 1000, bytes.NewReader(data)); err != nil {
		f.Fatal(err)
	}
	handler := artifact.Downloads(artifact.DownloadsConfig{
		Blobs: blobs, Files: memory{}, Limits: artifact.NewLimits(artifact.DefaultLimits()),
		Metrics: artifact.NewMetrics(ops.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	f.Fuzz(func(t *testing.T, value string) {
		r := httptest.NewRequest("GET", "/artifacts/"+digest(data), nil)
		r.Header["Range"] = []string{value}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		body := w.Body.Bytes()
		if len(body) > 2*len(data) {
			t.Fatalf("%d bytes", len(body))
		}
		switch w.Code {
		case http.StatusOK:
			if !bytes.Equal(body, data) {
				t.Fatal("other bytes")
			}
		case http.StatusRequestedRangeNotSatisfiable:
		case http.StatusPartialContent:
			span, ok := strings.CutPrefix(w.Header().Get("Content-Range"), "bytes ")
			if !ok {
				return // several
			}
			from, rest, _ := strings.Cut(span, "-")
			at, err := strconv.Atoi(from)
			if err != nil || len(body) == 0 || at+len(body) > len(data) || !bytes.Equal(body, data[at:at+len(body)]) || rest != strconv.Itoa(at+len(body)-1)+"/1000" {
				t.Fatalf("range %q of %d bytes", span, len(body))
			}
		default:
			t.Fatalf("status %d", w.Code)
		}
	})
}

package artifact_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/fleetd/artifact"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

// cached is Debian's nginx, with docs/nginx-cache.conf but for its addresses and files,
// between a device and the handler of downloads.origin.
type cached struct {
	t      *testing.T
	addr   string
	origin atomic.Int64 // bytes of bodies that the origin sent
	asked  atomic.Int64 // requests
	device *tls.Config
}

func startCache(t *testing.T, handler http.Handler, change ...string) *cached {
	t.Helper()
	const nginx = "/usr/sbin/nginx"
	if _, err := os.Stat(nginx); err != nil {
		t.Fatal("nginx is not installed: run scripts/setup machines")
	}
	c := &cached{t: t}
	dir := t.TempDir()
	ca, err := certs.NewCA("fleet.test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	service := func(name string, hosts ...string) certs.Credential {
		credential, err := ca.IssueService(certs.ServiceFleetd, hosts, time.Hour)
		if err == nil {
			err = credential.Save(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return credential
	}
	if err := certs.WritePublicFile(filepath.Join(dir, "ca.crt"), ca.PEM()); err != nil {
		t.Fatal(err)
	}
	service("cache")
	options := certs.TLSOptions{Credential: service("origin", "fleetd.example.com"), Authority: ca.Authority()}
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		handler.ServeHTTP(counting{w, &c.origin}, r)
	}))
	if origin.TLS, err = certs.PublicServerTLS(options); err != nil {
		t.Fatal(err)
	}
	origin.StartTLS()
	t.Cleanup(origin.Close)
	if options.Credential, err = ca.IssueDevice("cam-1", "cam", "a", time.Hour); err != nil {
		t.Fatal(err)
	}
	if c.device, err = certs.ClientTLS(options, certs.ServiceFleetd); err != nil {
		t.Fatal(err)
	}

	if c.addr, err = devstack.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("../../docs/nginx-cache.conf")
	if err != nil {
		t.Fatal(err)
	}
	change = append(change,
		"/var/cache/nginx/groundswell", filepath.Join(dir, "cache"), "/etc/nginx/groundswell", dir,
		"server fleetd.example.com:8446", "server "+origin.Listener.Addr().String(), "listen 8444", "listen "+c.addr)
	text := string(documented)
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(text, change[i]) {
			t.Fatalf("docs/nginx-cache.conf has no %q", change[i])
		}
		text = strings.ReplaceAll(text, change[i], change[i+1])
	}
	main := "daemon off;\npid nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
	if os.Geteuid() == 0 {
		main = "user root;\n" + main // the test's directories are its own
	}
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		main += fmt.Sprintf("%s_temp_path %s;\n", name, filepath.Join(dir, name))
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(main+text+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "nginx.log")
	process, err := devstack.Start(t.Context(), devstack.Spec{
		Name: "nginx", Path: nginx, LogFile: log, Args: []string{"-p", dir, "-c", "nginx.conf", "-e", "stderr"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Stop(10 * time.Second); err != nil {
			t.Error(err)
		}
		if said, _ := os.ReadFile(log); t.Failed() { // without it the test has failed all the same
			t.Logf("nginx: %s", said)
		}
	})
	devtest.Eventually(t, time.Minute, "nginx to answer", func() error {
		resp, _, err := c.ask("/", nil)
		if err == nil && resp.StatusCode != 404 {
			err = errors.New(resp.Status)
		}
		return err
	})
	return c
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// ask is a device with nothing but a certificate.
func (c *cached) ask(path string, header http.Header) (*http.Response, []byte, error) {
	transport := &http.Transport{TLSClientConfig: c.device.Clone(), DisableKeepAlives: true}
	req, err := http.NewRequest("GET", "https://"+c.addr+path, nil)
	if err != nil {
		return nil, nil, err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// The second device costs the origin nothing, nor do ranges of what the first had, and
// several first ones cost what one does.
func TestAnyHTTPCacheInFront(t *testing.T) {
	onBoth(t, 64<<20, func(t *testing.T, blobs *artifact.Blobs, _ string) {
		const size = 5<<20 + 123
		data := firmware(size)
		if _, err := blobs.Put(context.Background(), digest(data), size, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		c := startCache(t, serve(t, blobs, nil).Config.Handler)
		path, etag := "/artifacts/"+digest(data), `"`+digest(data)+`"`
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				resp, body, err := c.ask(path, nil)
				if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, data) || resp.Header.Get("ETag") != etag || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
					t.Errorf("whole: %v, %d bytes", err, len(body))
				}
			})
		}
		wg.Wait()
		if got := c.origin.Load(); got != size {
			t.Errorf("four devices cost the origin %d bytes, the artifact has %d", got, size)
		}
		before := c.asked.Load()
		for _, r := range []struct {
			header   http.Header
			status   int
			from, to int64
		}{
			{nil, 200, 0, size},
			{http.Header{"Range": {"bytes=1048570-1048590"}}, 206, 1048570, 1048591}, // over a slice's end
			{http.Header{"Range": {fmt.Sprintf("bytes=%d-", size-7)}, "If-Range": {etag}}, 206, size - 7, size},
			{http.Header{"Range": {"bytes=-9"}}, 206, size - 9, size},
			{http.Header{"Range": {"bytes=10-19"}, "If-Range": {`"other"`}}, 200, 0, size},
			{http.Header{"If-None-Match": {etag}}, 304, 0, 0},
		} {
			resp, body, err := c.ask(path, r.header)
			if err != nil || resp.StatusCode != r.status || !bytes.Equal(body, data[r.from:r.to]) {
				t.Errorf("%v: %v, %d bytes", r.header, err, len(body))
			}
		}
		if bytes, asked := c.origin.Load(), c.asked.Load(); bytes != size || asked != before {
			t.Errorf("later devices cost the origin %d bytes and %d requests", bytes-size, asked-before)
		}
		if _, body, err := c.ask("/repository/image/1.root.json", nil); err != nil || string(body) != `{"root":1}` {
			t.Errorf("metadata: %q, %v", body, err)
		}
	})
}

// With signed URLs the cache keeps what it got by each, and gives nothing to others.
func TestACacheKeepsToSignedURLs(t *testing.T) {
	data := firmware(3 << 20)
	signed := signatures(t, time.Hour, keyA)
	server := serve(t, filled(t, data), func(c *artifact.DownloadsConfig) { c.Signatures = signed })
	c := startCache(t, server.Config.Handler, "proxy_cache_key   $uri$slice_range", "proxy_cache_key   $request_uri$slice_range")
	path := "/artifacts/" + digest(data)
	query := "?" + signed.Sign(digest(data), time.Now())
	for range 2 {
		resp, body, err := c.ask(path+query, nil)
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, data) {
			t.Errorf("signed: %v, %d bytes", err, len(body))
		}
		if resp, body, err := c.ask(path, nil); err != nil || resp.StatusCode != 403 || len(body) > 200 {
			t.Errorf("unsigned: %v, %d bytes", err, len(body))
		}
	}
	if got := c.origin.Load(); got > 3<<20+1000 {
		t.Errorf("the origin sent %d bytes", got)
	}
}

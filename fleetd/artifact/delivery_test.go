package artifact_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/fleetd/artifact"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
)

// filled is a directory of artifacts with one in it.
func filled(t *testing.T, data []byte) *artifact.Blobs {
	t.Helper()
	blobs, err := artifact.OpenBlobs(filepath.Join(t.TempDir(), "artifacts"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	if _, err := blobs.Put(context.Background(), digest(data), int64(len(data)), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return blobs
}

func signatures(t *testing.T, lifetime time.Duration, keys ...string) *artifact.Signatures {
	t.Helper()
	var raw [][]byte
	for _, key := range keys {
		raw = append(raw, []byte(key))
	}
	s, err := artifact.NewSignatures(lifetime, raw...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const (
	keyA = "0123456789abcdef0123456789abcdef"
	keyB = "fedcba9876543210fedcba9876543210"
)

func TestOnlyAValidSignatureOpensAnArtifact(t *testing.T) {
	data := firmware(10_000)
	both := signatures(t, time.Hour, keyB, keyA)
	server := serve(t, filled(t, data), func(c *artifact.DownloadsConfig) { c.Signatures = both })
	path := server.URL + "/artifacts/" + digest(data) + "?"
	now := time.Now()
	valid := signatures(t, time.Hour, keyA).Sign(digest(data), now)
	query, err := url.ParseQuery(valid)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(name, value string) string {
		q := url.Values{"expires": query["expires"], "signature": query["signature"]}
		q.Set(name, value)
		return q.Encode()
	}
	later := strconv.FormatInt(now.Add(100*time.Hour).Unix(), 10)
	flipped := []byte(query.Get("signature"))
	flipped[5] ^= 1
	for name, c := range map[string]struct{ query, says string }{
		"none":                {"", "no valid signature"},
		"no signature":        {"expires=" + query.Get("expires"), "no valid signature"},
		"empty":               {changed("signature", ""), "no valid signature"},
		"flipped":             {changed("signature", string(flipped)), "no valid signature"},
		"not base64":          {changed("signature", "%%%"), "no valid signature"},
		"later":               {changed("expires", later), "no valid signature"},
		"two times":           {"expires=" + later + "&" + valid, "no valid signature"},
		"of another artifact": {signatures(t, time.Hour, keyA).Sign(digest(nil), now), "no valid signature"},
		"by a stranger":       {signatures(t, time.Hour, strings.Repeat("x", 32)).Sign(digest(data), now), "no valid signature"},
		"expired":             {signatures(t, time.Hour, keyA).Sign(digest(data), now.Add(-time.Hour-time.Second)), "has expired"},
	} {
		resp, body := get(t, path+c.query)
		if resp.StatusCode != 403 || !strings.Contains(string(body), c.says) || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %.80q %v", name, resp.Status, body, resp.Header)
		}
	}
	for name, q := range map[string]string{
		"the first key": both.Sign(digest(data), now), "the other key": valid,
		"half a lifetime later": signatures(t, time.Hour, keyA).Sign(digest(data), now.Add(-29*time.Minute)),
	} {
		resp, body := get(t, path+q)
		if resp.StatusCode != 200 || !bytes.Equal(body, data) {
			t.Errorf("%s: %s", name, resp.Status)
		}
		// No cache may hold it for longer than the URL is valid.
		var age int
		if control, ok := strings.CutPrefix(resp.Header.Get("Cache-Control"), "public, max-age="); ok {
			age, _ = strconv.Atoi(strings.TrimSuffix(control, ", immutable")) // 0 is wrong
		}
		if age < 1 || age > 3600 {
			t.Errorf("%s: Cache-Control %q", name, resp.Header.Get("Cache-Control"))
		}
	}
	if resp, _ := get(t, server.URL+"/repository/image/1.root.json"); resp.StatusCode != 200 {
		t.Errorf("metadata: %s", resp.Status)
	}
	if _, err := artifact.NewSignatures(time.Hour, []byte(keyA[:31])); err == nil {
		t.Error("a key of 31 bytes is taken")
	}
}

// A device that asks the listener for the rest of an artifact gets it from the CDN, with
// the range that it asked for, by Go's HTTP client as the agent uses it.
func TestADeviceIsSentOnToTheCDN(t *testing.T) {
	data := firmware(10_000)
	blobs := filled(t, data)
	var mu sync.Mutex
	var asked []*http.Request
	signed := signatures(t, time.Hour, keyA)
	origin := serve(t, blobs, func(c *artifact.DownloadsConfig) { c.Signatures = signed })
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r)
		mu.Unlock()
		origin.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(cdn.Close)
	devices := serve(t, blobs, func(c *artifact.DownloadsConfig) { c.Signatures, c.RedirectTo = signed, cdn.URL+"/" })

	req, err := http.NewRequest("GET", devices.URL+"/artifacts/"+digest(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=9000-")
	req.Header.Set("If-Range", `"`+digest(data)+`"`)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 206 || !bytes.Equal(body, data[9000:]) {
		t.Errorf("%s, %d bytes, err %v", resp.Status, len(body), err)
	}
	if len(asked) != 1 || asked[0].Header.Get("If-Range") != `"`+digest(data)+`"` {
		t.Fatalf("the CDN was asked %d times", len(asked))
	}
	if resp, _ := get(t, devices.URL+"/artifacts/"+digest(data)); resp.StatusCode != 307 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	if resp, _ := get(t, devices.URL+"/artifacts/elsewhere"); resp.StatusCode != 404 {
		t.Errorf("not an artifact: %s", resp.Status)
	}
	if resp, _ := get(t, devices.URL+"/repository/image/1.root.json"); resp.StatusCode != 200 {
		t.Errorf("metadata: %s", resp.Status)
	}
}

func TestDownloadsAboveTheBoundComeAgainLater(t *testing.T) {
	data := firmware(8 << 20) // more than what lies in the buffers of a connection
	limits := artifact.DefaultLimits()
	limits.Concurrent, limits.PerDevice, limits.RetryAfterMin, limits.RetryAfterMax = 2, 2, 3*time.Second, 6*time.Second
	registry := ops.NewRegistry()
	server := serve(t, filled(t, data), func(c *artifact.DownloadsConfig) {
		c.Limits, c.Metrics = artifact.NewLimits(limits), artifact.NewMetrics(registry)
	})
	path := server.URL + "/artifacts/" + digest(data)
	var held []io.Closer
	for range 2 { // two that do not read
		resp, err := http.Get(path)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, resp.Body)
	}
	seen := map[string]bool{}
	for i := 0; len(seen) < 4; i++ {
		resp, body := get(t, path)
		after := resp.Header.Get("Retry-After")
		if resp.StatusCode != 503 || !strings.Contains(string(body), "too many") || resp.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%s %.80q %v", resp.Status, body, resp.Header)
		}
		if n, err := strconv.Atoi(after); err != nil || n < 3 || n > 6 {
			t.Fatalf("Retry-After: %q", after)
		}
		seen[after] = true
		if i > 1000 {
			t.Fatalf("Retry-After is not drawn from all of 3 to 6: %v", seen)
		}
	}
	if resp, _ := get(t, server.URL+"/repository/image/1.root.json"); resp.StatusCode != 200 {
		t.Errorf("metadata: %s", resp.Status)
	}
	metrics := scrape(registry)
	for _, want := range []string{
		`groundswell_downloads_running{kind="artifact"} 2`, `groundswell_downloads_refused_total{kind="artifact",reason="busy"}`,
		`groundswell_downloads_total{kind="metadata",status="200"} 1`, `groundswell_download_bytes_total{kind="metadata",status="200"} 10`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in:\n%s", want, metrics)
		}
	}
	for _, body := range held {
		_ = body.Close() // not read to its end
	}
	devtest.Eventually(t, time.Minute, "a place to be free", func() error {
		if resp, _ := get(t, path, "Range", "bytes=0-9"); resp.StatusCode != 206 {
			return io.ErrNoProgress
		}
		return nil
	})
}

func scrape(registry *ops.Registry) string {
	w := httptest.NewRecorder()
	registry.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "groundswell_") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func TestLimitsAreRefusedByField(t *testing.T) {
	for field, change := range map[string]func(*artifact.LimitsConfig){
		"concurrent":       func(c *artifact.LimitsConfig) { c.Concurrent = 0 },
		"per_device":       func(c *artifact.LimitsConfig) { c.PerDevice = c.Concurrent + 1 },
		"retry_after_min":  func(c *artifact.LimitsConfig) { c.RetryAfterMin = time.Millisecond },
		"retry_after_max":  func(c *artifact.LimitsConfig) { c.RetryAfterMax = time.Second },
		"bytes_per_second": func(c *artifact.LimitsConfig) { c.BytesPerSecond = artifact.MinRate*int64(c.Concurrent) - 1 },
	} {
		c := artifact.DefaultLimits()
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// One device cannot take all places; others, and callers without a certificate, have
// theirs.
func TestOneDeviceHasItsShareOfThePlaces(t *testing.T) {
	data := firmware(8 << 20)
	ca, err := certs.NewCA("fleet.test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.IssueService(certs.ServiceFleetd, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	limits := artifact.DefaultLimits()
	limits.Concurrent, limits.PerDevice = 4, 2
	packs, blobs, _, _ := packed(t, data)
	plain := serve(t, blobs, func(c *artifact.DownloadsConfig) {
		c.Limits, c.IndexDeltas, c.Packs = artifact.NewLimits(limits), artifact.NewIndexDeltas(blobs), packs
	})
	_, table := fetch(t, plain.URL+"/packs/"+digest(data)+"/table", "")
	const whole, blocks = "artifact", "packed blocks"
	paths := map[string]string{whole: "/artifacts/" + digest(data), blocks: "/packs/" + digest(data) + "/" + digest(table)}
	server := httptest.NewUnstartedServer(plain.Config.Handler)
	if server.TLS, err = certs.ServerTLS(certs.TLSOptions{Credential: own, Authority: ca.Authority()}); err != nil {
		t.Fatal(err)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	client := func(name string) *http.Client {
		credential, err := ca.IssueDevice(name, "cam", "a", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		config, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: ca.Authority()}, certs.ServiceFleetd)
		if err != nil {
			t.Fatal(err)
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	}
	hold := func(c *http.Client, what string) int {
		t.Helper()
		resp, err := c.Get(server.URL + paths[what])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() }) // not read to its end
		return resp.StatusCode
	}
	greedy, modest := client("cam-1"), client("cam-2")
	for i, step := range []struct {
		who  *http.Client
		what string
		want int
	}{
		{greedy, blocks, 200}, {greedy, whole, 200}, {greedy, blocks, 503}, {greedy, whole, 503},
		{modest, blocks, 200}, {greedy, blocks, 503}, {modest, blocks, 200}, {modest, whole, 503},
	} {
		if got := hold(step.who, step.what); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	// A delta between indexes is one of them: nobody looks whether it is there.
	resp, err := greedy.Get(server.URL + between(data, data))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // the header is enough
	if resp.StatusCode != 404 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a delta between indexes: %s %v", resp.Status, resp.Header)
	}
	// Nor whether there are packed blocks, where it has no place for them.
	none := digest([]byte("none"))
	if resp, err = greedy.Get(server.URL + "/packs/" + none + "/" + none); err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // the header is enough
	if resp.StatusCode != 503 {
		t.Errorf("packed blocks that are not there: %s", resp.Status)
	}
}

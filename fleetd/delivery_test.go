package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/stack"
)

// A device asks the listener for devices and gets the artifact from the listener for
// caches, by a URL that was signed for it; without one nobody does. The artifact lies
// in a directory as before there were buckets.
func TestDevicesAreSentOnBySignedURLs(t *testing.T) {
	data := bytes.Repeat([]byte("firmware"), 5_000)
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	dir := t.TempDir()
	stored := filepath.Join(dir, "artifacts", digest[:2], digest)
	if err := os.MkdirAll(filepath.Dir(stored), 0o755); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "url.key")
	for path, content := range map[string][]byte{stored: data, key: []byte(strings.Repeat("k", 32) + "\n")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	origin, err := devstack.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, stack.Options{WithoutInflux: true, FleetdConfig: func(c stack.Config) {
		c.Set(filepath.Join(dir, "artifacts"), "artifacts", "dir")
		c.Set("https://"+origin, "downloads", "redirect_to")
		c.Set([]string{key}, "downloads", "signed_urls", "key_files")
		c.Set(origin, "downloads", "origin", "listen")
	}})
	ca, err := s.CA()
	if err != nil {
		t.Fatal(err)
	}
	options, err := s.DeviceTLS(ca, "cam-1", "cam-a", "rev-b")
	if err != nil {
		t.Fatal(err)
	}
	deviceTLS, err := certs.ClientTLS(options, certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	anybodyTLS, err := certs.AnonymousClientTLS(options, s.TrustDomain, certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	device := &http.Client{Transport: &http.Transport{TLSClientConfig: deviceTLS}}
	anybody := &http.Client{Transport: &http.Transport{TLSClientConfig: anybodyTLS}}
	get := func(c *http.Client, url string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", "bytes=39990-")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := get(device, s.DownloadURL()+"/artifacts/"+digest)
	if resp.StatusCode != 206 || body != string(data[39_990:]) || resp.Request.URL.Host != origin {
		t.Fatalf("%s from %s: %q", resp.Status, resp.Request.URL.Host, body)
	}
	if again, _ := get(anybody, resp.Request.URL.String()); again.StatusCode != 206 {
		t.Errorf("a cache with the URL: %s", again.Status)
	}
	if resp, body := get(anybody, "https://"+origin+"/artifacts/"+digest); resp.StatusCode != 403 || !strings.Contains(body, "signature") {
		t.Errorf("without a signature: %s %q", resp.Status, body)
	}
	if resp, _ := get(anybody, "https://"+origin+"/repository/image/1.root.json"); resp.StatusCode/100 != 2 && resp.StatusCode != 416 {
		t.Errorf("metadata: %s", resp.Status)
	}
	if _, err := anybody.Get(s.DownloadURL() + "/artifacts/" + digest); err == nil {
		t.Error("anybody gets a signed URL")
	}
	_, metrics, err := fetch("http://" + s.Fleetd.Addr("ops") + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`groundswell_downloads_total{kind="artifact",status="307"} 1`, `groundswell_download_bytes_total{kind="artifact",status="206"} 20`,
		`groundswell_downloads_refused_total{kind="artifact",reason="signature"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

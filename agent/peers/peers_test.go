package peers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/certs"
	"groundswell/internal/block"
	"groundswell/internal/devstack/devtest"
)

// file is an artifact in a file.
type file struct {
	data  []byte
	name  string // its SHA-256
	path  string
	index block.Index
}

func newFile(t testing.TB, seed byte, n int) file {
	t.Helper()
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	sum := sha256.Sum256(data)
	f := file{data: data, name: hex.EncodeToString(sum[:]), path: filepath.Join(t.TempDir(), "artifact")}
	if err := os.WriteFile(f.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	index, err := block.Make(t.Context(), bytes.NewReader(data), int64(n))
	if err != nil {
		t.Fatal(err)
	}
	f.index = index
	return f
}

// serving is a device that takes part.
func serving(t testing.TB, ca *certs.CA, change func(*peers.Options)) *peers.Site {
	t.Helper()
	s := peerstest.Site(t, ca, "cam-1", "127.0.0.1:0", nil, change)
	devtest.Eventually(t, devtest.Patience, "the device to take part", devtest.True(func() bool { return s.Out() == "" }))
	return s
}

// asker asks as a device.
func asker(t testing.TB, config *tls.Config) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func get(t testing.TB, c *http.Client, s *peers.Site, path string, header ...string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}

// TestBlocksAreGivenByDigestOnly and no more of an artifact than is there.
func TestBlocksAreGivenByDigestOnly(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 1, 1<<20)
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	share := s.Join(f.name, f.index, f.path)
	share.Have(3)
	for i, b := range f.index.Blocks[:3] {
		status, body := get(t, c, s, "/blocks/"+b.Name())
		if status != http.StatusOK || b.Check(body) != nil {
			t.Errorf("block %d: %d, %d bytes", i, status, len(body))
		}
	}
	first := f.index.Blocks[0].Name()
	for _, path := range []string{
		"/", "/blocks/", "/blocks/" + f.index.Blocks[3].Name(), "/blocks/" + f.name, "/blocks/" + first[:63], "/blocks/" + first + "0",
		"/blocks/" + hex.EncodeToString(make([]byte, 32)), "/blocks/../" + f.path, "/blocks/%2e%2e%2f" + filepath.Base(f.path), "/" + f.path,
		"/blocks/" + strings.ToUpper(first), "/blocks/" + first + "/x", "/artifacts/" + first, "/artifacts/" + f.name[:63], "/metrics",
	} {
		if status, body := get(t, c, s, path); status != http.StatusNotFound || len(body) > 100 {
			t.Errorf("%s: %d, %d bytes", path, status, len(body))
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		req, _ := http.NewRequestWithContext(t.Context(), method, "https://"+s.Addr()+"/blocks/"+first, nil)
		resp, err := c.Do(req)
		if err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %+v, %v", method, resp, err)
		}
	}
	// Whoever runs there may have changed it, and must not be blamed for that.
	if err := os.WriteFile(f.path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if status, _ := get(t, c, s, "/blocks/"+first); status != http.StatusGone {
			t.Errorf("what is not the block any more is given: %d", status)
		}
	}
	if status, body := get(t, c, s, "/artifacts/"+f.name); status != http.StatusOK || !bytes.Equal(bytes.TrimSpace(body), []byte(`{"have":0}`)) {
		t.Errorf("it still says that it has it: %d %s", status, body)
	}
}

// TestABlockThatCannotBeReadNowIsAskedForLater, and one whose file is gone is taken back.
func TestABlockThatCannotBeReadNowIsAskedForLater(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 10, 200_000)
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	s.Join(f.name, f.index, f.path).Have(1)
	if err := errors.Join(os.Remove(f.path), os.Mkdir(f.path, 0o700)); err != nil {
		t.Fatal(err)
	}
	path := "/blocks/" + f.index.Blocks[0].Name()
	if status, _ := get(t, c, s, path); status != http.StatusServiceUnavailable {
		t.Errorf("it cannot be read: %d", status)
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, c, s, path); status != http.StatusGone {
		t.Errorf("it is gone: %d", status)
	}
}

// TestWhoWaitsForABlockIsTold when it is there, and not before it is asked to wait.
func TestWhoWaitsForABlockIsTold(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 2, 1<<20)
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	share := s.Join(f.name, f.index, f.path)
	share.Have(1)
	done := share.Fetches(5)
	want := func(path, prefer, want string) {
		t.Helper()
		status, body := get(t, c, s, path, "Prefer", prefer)
		if status != http.StatusOK || !bytes.Equal(bytes.TrimSpace(body), []byte(want)) {
			t.Errorf("%s %s: %d %s, want %s", path, prefer, status, body, want)
		}
	}
	path := "/artifacts/" + f.name
	want(path, "", `{"have":1,"making":true,"fetching":5}`)
	want(path+"?after=0", "wait=30", `{"have":1,"making":true,"fetching":5}`)
	want(path+"?after=1", "wait=1", `{"have":1,"making":true,"fetching":5}`)
	told := make(chan struct{})
	go func() { defer close(told); want(path+"?after=1", "wait=30", `{"have":2,"making":true,"fetching":5}`) }()
	for range 20 { // meanwhile it waits
		want(path, "", `{"have":1,"making":true,"fetching":5}`)
	}
	share.Have(2)
	<-told
	done()
	share.Leave()
	want(path+"?after=1000", "wait=30", `{"have":2}`) // there will be no more
	for _, bad := range []string{"-1", "x", "99999999999"} {
		if status, _ := get(t, c, s, path+"?after="+bad); status != http.StatusBadRequest {
			t.Errorf("after=%s: %d", bad, status)
		}
	}
}

// TestWhatRunsIsGiven after an agent's restart, too.
func TestWhatRunsIsGiven(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	f := newFile(t, 3, 1<<20)
	var opened atomic.Int64
	s := serving(t, ca, func(o *peers.Options) {
		o.Contents = func(artifact string) (peers.Contents, bool) {
			return peers.Contents{Length: int64(len(f.data)), Open: func() (peers.ReadAtCloser, error) { opened.Add(1); return os.Open(f.path) }}, artifact == f.name
		}
	})
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	if opened.Load() != 0 {
		t.Error("it is read before anybody asks")
	}
	want := fmt.Sprintf(`{"have":%d}`, len(f.index.Blocks))
	devtest.Eventually(t, devtest.Patience, "the blocks to be found out", func() error {
		status, body := get(t, c, s, "/artifacts/"+f.name, "Prefer", "wait=5")
		if got := string(bytes.TrimSpace(body)); status != http.StatusOK || got != want {
			return fmt.Errorf("%d %s, want %s", status, got, want)
		}
		return nil
	})
	last := f.index.Blocks[len(f.index.Blocks)-1]
	if status, body := get(t, c, s, "/blocks/"+last.Name()); status != http.StatusOK || last.Check(body) != nil {
		t.Errorf("%d, %d bytes", status, len(body))
	}
}

// TestNobodyButDevicesOfTheFleetIsServed.
func TestNobodyButDevicesOfTheFleetIsServed(t *testing.T) {
	ca, other := peerstest.CA(t, peerstest.Domain), peerstest.CA(t, "other.example.org")
	s, f := serving(t, ca, nil), newFile(t, 4, 200_000)
	s.Join(f.name, f.index, f.path).Have(1)
	path := "/blocks/" + f.index.Blocks[0].Name()
	fleetd, err := ca.IssueService(certs.ServiceFleetd, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, asker(t, peerstest.TLS(t, ca, "cam-2")), s, path); status != http.StatusOK {
		t.Fatalf("a device: %d", status)
	}
	for name, credential := range map[string]tls.Certificate{
		"nobody": {}, "fleetd": fleetd.TLS(), "another fleet's device": peerstest.Credential(t, other, "cam-2").TLS(),
	} {
		config := &tls.Config{InsecureSkipVerify: true}
		if credential.Certificate != nil {
			config.Certificates = []tls.Certificate{credential}
		}
		if status, body := get(t, asker(t, config), s, path); status != 0 {
			t.Errorf("%s: %d, %d bytes", name, status, len(body))
		}
	}
	plain := &http.Client{}
	if resp, err := plain.Get("http://" + s.Addr() + path); err == nil {
		if resp.StatusCode == http.StatusOK {
			t.Error("it is served without TLS")
		}
		resp.Body.Close()
	}
}

// TestADeviceTakesNoPartOnItsBattery nor where a fact does not hold, and begins when that
// is over.
func TestADeviceTakesNoPartOnItsBattery(t *testing.T) {
	ca, f := peerstest.CA(t, peerstest.Domain), newFile(t, 5, 200_000)
	off := filepath.Join(t.TempDir(), "metered")
	if err := os.WriteFile(off, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*peers.Options){
		"battery": func(o *peers.Options) { o.Mains = func() bool { return false } },
		"metered": func(o *peers.Options) {
			o.Facts = []condition.Fact{{Name: "unmetered", Command: []string{"/bin/sh", "-c", "test ! -e " + off + " || exit 21"}}}
		},
	} {
		s := peerstest.Site(t, ca, "cam-1", "127.0.0.1:0", nil, change)
		devtest.Eventually(t, devtest.Patience, "the device to find out", devtest.True(func() bool { return s.Out() != "it is not known yet what the device runs on" }))
		if s.Out() == "" || s.Join(f.name, f.index, f.path) != nil {
			t.Errorf("%s: it takes part", name)
		}
		c := asker(t, peerstest.TLS(t, ca, "cam-2"))
		if status, _ := get(t, c, s, "/artifacts/"+f.name); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", name, status)
		}
	}
	if err := os.Remove(off); err != nil {
		t.Fatal(err)
	}
	serving(t, ca, func(o *peers.Options) {
		o.Facts = []condition.Fact{{Name: "unmetered", Command: []string{"/bin/sh", "-c", "test ! -e " + off + " || exit 21"}}}
	})
}

// TestUploadsAreCapped at once, and in bytes a second: what is above is told to come back.
func TestUploadsAreCapped(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s := serving(t, ca, func(o *peers.Options) { o.MaxUploads, o.UploadRate = 1, 64<<10 })
	f := newFile(t, 6, 2<<20)
	s.Join(f.name, f.index, f.path).Have(len(f.index.Blocks))
	began := time.Now()
	var refused, given atomic.Int64
	var working sync.WaitGroup
	for i := range 6 {
		c := asker(t, peerstest.TLS(t, ca, fmt.Sprintf("cam-%d", i+2)))
		working.Go(func() {
			switch status, body := get(t, c, s, "/blocks/"+f.index.Blocks[i].Name()); status {
			case http.StatusOK:
				given.Add(int64(len(body)))
			case http.StatusServiceUnavailable:
				refused.Add(1)
			default:
				t.Errorf("%d", status)
			}
		})
	}
	working.Wait()
	// A bucket is full at the beginning.
	if took := time.Since(began); float64(given.Load()-(16<<10)) > took.Seconds()*(64<<10)*1.01 || given.Load() == 0 {
		t.Errorf("%d bytes in %v", given.Load(), took)
	}
	if refused.Load() == 0 {
		t.Error("nobody was refused")
	}
	devtest.Eventually(t, devtest.Patience, "what was given to be counted", func() error {
		if got, want := s.Given(), given.Load(); got != want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// TestOneDeviceCannotTakeAllRequests.
func TestOneDeviceCannotTakeAllRequests(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 7, 200_000)
	s.Join(f.name, f.index, f.path)
	ctx, cancel := context.WithCancel(t.Context())
	greedy := asker(t, peerstest.TLS(t, ca, "greedy"))
	statuses := make(chan int, 20)
	for range 20 {
		go func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Addr()+"/artifacts/"+f.name+"?after=9", nil)
			req.Header.Set("Prefer", "wait=30")
			resp, err := greedy.Do(req)
			if err != nil {
				statuses <- 0
				return
			}
			resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	for range 20 - 8 {
		if status := <-statuses; status != http.StatusServiceUnavailable {
			t.Errorf("%d", status)
		}
	}
	if status, _ := get(t, asker(t, peerstest.TLS(t, ca, "cam-2")), s, "/artifacts/"+f.name); status != http.StatusOK {
		t.Errorf("another device: %d", status)
	}
	cancel()
	for range 8 {
		<-statuses
	}
}

// TestAPeerIsWhoItsCertificateSays: one of another fleet, or fleetd, is no peer.
func TestAPeerIsWhoItsCertificateSays(t *testing.T) {
	ca, other := peerstest.CA(t, peerstest.Domain), peerstest.CA(t, "other.example.org")
	f := newFile(t, 8, 200_000)
	var asked atomic.Int64
	all := func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]int{"have": 1000})
	}
	strange := peerstest.Serve(t, other, "cam-2", all)
	self := peerstest.Serve(t, ca, "cam-1", all) // this device's own name
	s := peerstest.Site(t, ca, "cam-1", "127.0.0.1:0", []string{strange, self}, nil)
	devtest.Eventually(t, devtest.Patience, "the device to take part", devtest.True(func() bool { return s.Out() == "" }))
	share := s.Join(f.name, f.index, f.path)
	mine, err := share.Turn(t.Context(), 0, 0, len(f.index.Blocks), 0)
	if err != nil || !mine || share.Has(0) || !share.Alone() {
		t.Errorf("%v, %v", mine, err)
	}
	if n := asked.Load(); n > 1 { // itself, which is found out by the answer
		t.Errorf("%d requests were answered", n)
	}
	strangers := asker(t, peerstest.TLS(t, other, "cam-9"))
	if status, _ := get(t, strangers, s, "/artifacts/"+f.name); status != 0 {
		t.Errorf("a device of another fleet: %d", status)
	}
}

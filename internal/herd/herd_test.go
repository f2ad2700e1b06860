package herd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/assemble"
	"groundswell/agent/fetch"
	"groundswell/certs/trust"
	"groundswell/fleetd/artifact"
	"groundswell/internal/block"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// replica is a listener for downloads that can go away and come back, and checks after
// each piece that it never was above its cap.
type replica struct {
	t        *testing.T
	addr     string
	handler  http.Handler
	registry *ops.Registry
	limits   artifact.LimitsConfig
	refused  chan struct{} // closed when it has turned somebody away; no artifact leaves before
	refuse   func()        // closes it

	life   sync.Mutex // guards what follows
	server *http.Server
	due    bool // it goes down in the middle of the next artifact

	mu    sync.Mutex // guards what follows
	began time.Time  // zero: no request yet
	sent  int64      // bytes of what devices asked for
	above string     // what broke the cap, if anything did
}

func newReplica(t *testing.T, blobs *artifact.Blobs, packs *artifact.Packs, limits artifact.LimitsConfig) *replica {
	t.Helper()
	r := &replica{t: t, registry: ops.NewRegistry(), limits: limits, refused: make(chan struct{})}
	r.refuse = sync.OnceFunc(func() { close(r.refused) })
	downloads := artifact.Downloads(artifact.DownloadsConfig{
		Blobs: blobs, Packs: packs, IndexDeltas: artifact.NewIndexDeltas(blobs), Files: nothing{}, Limits: artifact.NewLimits(limits), Metrics: artifact.NewMetrics(r.registry), Log: slog.New(slog.DiscardHandler),
	})
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		if r.began.IsZero() {
			r.began = time.Now()
		}
		r.mu.Unlock()
		m := &metered{ResponseWriter: w, r: r, ctx: req.Context()}
		m.artifact = strings.HasPrefix(req.URL.Path, "/artifacts/")
		m.whole = m.artifact && req.Header.Get("Range") == ""
		downloads.ServeHTTP(m, req)
	})
	var err error
	if r.addr, err = devstack.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *replica) start() {
	r.life.Lock()
	defer r.life.Unlock()
	if r.due { // nobody came
		r.due = false
		_ = r.server.Close()
	}
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.server = &http.Server{Handler: r.handler}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server) // until Close
}

// stop cuts all connections.
func (r *replica) stop() {
	r.life.Lock()
	defer r.life.Unlock()
	_ = r.server.Close()
}

// stopInTheMiddle cuts all connections as soon as somebody has a part of an artifact.
func (r *replica) stopInTheMiddle() {
	r.life.Lock()
	defer r.life.Unlock()
	r.due = true
}

// middle is told that somebody has a part of an artifact.
func (r *replica) middle() {
	r.life.Lock()
	defer r.life.Unlock()
	if r.due {
		r.due = false
		_ = r.server.Close()
	}
}

// count holds the bytes so far against what the cap allows in the time so far. That is
// an upper bound only, so a slow machine cannot break it.
func (r *replica) count(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += int64(n)
	took := time.Since(r.began)
	if allowed := int64(float64(r.limits.BytesPerSecond)*took.Seconds()) + r.limits.Burst(); r.sent > allowed && r.above == "" {
		r.above = fmt.Sprintf("%d bytes in %v, at most %d are allowed", r.sent, took, allowed)
	}
}

type metered struct {
	http.ResponseWriter
	r      *replica
	ctx    context.Context
	status int

	artifact, whole bool // is asked for
	sent            int
}

func (m *metered) WriteHeader(status int) {
	m.status = status
	if m.artifact && status == http.StatusServiceUnavailable {
		m.r.refuse()
	}
	m.ResponseWriter.WriteHeader(status)
}

func (m *metered) Write(p []byte) (int, error) {
	if m.artifact && m.status < 300 {
		select {
		case <-m.r.refused:
		case <-m.ctx.Done():
			return 0, m.ctx.Err()
		}
	}
	n, err := m.ResponseWriter.Write(p)
	if m.status < 300 {
		m.r.count(n)
	}
	// What was sent before this piece has left the buffers.
	if m.sent += n; m.whole && err == nil && m.sent > len(p) && m.sent < size {
		m.r.middle()
	}
	return n, err
}

func (m *metered) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// nothing is a repository without files.
type nothing struct{}

func (nothing) RepositoryFile(context.Context, trust.Repository, string) ([]byte, error) {
	return nil, artifact.ErrNoFile
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// firmware is noise with stretches that can be packed.
func firmware(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // never fails
	for i := 0; i < n; i += 8 << 10 {
		clear(data[i:min(n, i+2<<10)])
	}
	return data
}

// origin holds a release: the artifact, its index and its pack.
func origin(t *testing.T, data []byte) (*artifact.Blobs, *artifact.Packs, topics.Document) {
	t.Helper()
	blobs, err := artifact.OpenBlobs(filepath.Join(t.TempDir(), "artifacts"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	index, err := block.Make(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][]byte{data, index.Bytes()} {
		if _, err := blobs.Put(t.Context(), digest(raw), int64(len(raw)), bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	}
	packs := artifact.NewPacks(blobs)
	if err := packs.Make(t.Context(), digest(data), index.Bytes(), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	return blobs, packs, topics.Document{Length: int64(len(index.Bytes())), SHA256: digest(index.Bytes())}
}

const devices, size = 500, 256 << 10 // size is that of the artifact

// Five hundred devices at once, at two replicas that take a hundred each and have a cap:
// the first goes down in the middle and comes back. However slow the machine, all of the
// places are taken at once, and somebody has a part when the first goes down. No device fails, none is above its
// cap at any time. Half of the devices know of no blocks.
func TestFiveHundredDevicesAtAnOriginThatFailsOver(t *testing.T) {
	data := firmware(size)
	blobs, packs, index := origin(t, data)
	limits := artifact.LimitsConfig{
		Concurrent: 100, PerDevice: 8, RetryAfterMin: time.Second, RetryAfterMax: 2 * time.Second, BytesPerSecond: 6 << 20,
	}
	if err := limits.Check(); err != nil {
		t.Fatal(err)
	}
	first, second := newReplica(t, blobs, packs, limits), newReplica(t, blobs, packs, limits)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()

	var sentBefore int64 // by the first, before it came back
	var done atomic.Int64
	finished := func() {
		switch done.Add(1) {
		case devices / 5:
			first.stopInTheMiddle()
		case devices / 2:
			first.mu.Lock()
			sentBefore = first.sent
			first.mu.Unlock()
			first.start()
		}
	}
	var wg sync.WaitGroup
	var received atomic.Int64
	dir := t.TempDir()
	for i := range devices {
		wg.Go(func() {
			client := fetch.New(fetch.Config{
				Sources:    func() []string { return []string{"http://" + first.addr, "http://" + second.addr} },
				BackoffMin: 50 * time.Millisecond, BackoffMax: 2 * time.Second,
			})
			defer client.Close()
			wanted := fetch.Artifact{Length: size, SHA256: digest(data)}
			if i%2 == 0 {
				wanted.Index = &index
			}
			path := filepath.Join(dir, fmt.Sprint(i))
			var transfer topics.Transfer
			err := assemble.Downloads{Client: client, Log: slog.New(slog.DiscardHandler)}.Artifact(ctx, wanted, path, func(_ int64, t topics.Transfer) { transfer = t })
			if err != nil {
				t.Errorf("device %d: %v", i, err)
				return
			}
			have, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(have, data) {
				t.Errorf("device %d: %d bytes, or others: %v", i, len(have), err)
			}
			if i%2 == 0 && transfer.Packed == 0 && transfer.Full == 0 {
				t.Errorf("device %d: %+v", i, transfer)
			}
			received.Add(transfer.Received())
			finished()
		})
	}
	wg.Wait()
	t.Logf("devices count %d bytes, %d of them in %d artifacts", received.Load(), int64(devices*size), devices)
	resumed := false // at either
	for name, r := range map[string]*replica{"first": first, "second": second} {
		r.mu.Lock()
		t.Logf("%s: %d bytes in %v", name, r.sent, time.Since(r.began).Round(time.Millisecond))
		if r.above != "" {
			t.Errorf("%s: above its cap: %s", name, r.above)
		}
		r.mu.Unlock()
		// Or the test would have shown nothing.
		metrics := scrape(r.registry)
		if want := `groundswell_downloads_refused_total{kind="artifact",reason="busy"} `; !strings.Contains(metrics, want) {
			t.Errorf("%s: no %s", name, want)
		}
		resumed = resumed || strings.Contains(metrics, `groundswell_download_bytes_total{kind="artifact",status="206"} `)
		if strings.Contains(metrics, "groundswell_downloads_waited_seconds_total 0\n") {
			t.Errorf("%s: nobody waited for the cap", name)
		}
		devtest.Eventually(t, time.Minute, name+" to be idle", func() error {
			metrics := scrape(r.registry)
			for _, want := range []string{`groundswell_downloads_running{kind="artifact"} 0`, "groundswell_downloads_waiting 0"} {
				if !strings.Contains(metrics, want) {
					return fmt.Errorf("not %s", want)
				}
			}
			return nil
		})
	}
	if !resumed {
		t.Error("nothing that broke off was gone on with")
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	if first.sent == sentBefore {
		t.Error("the first was not asked again when it was back")
	}
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

package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
)

// replica is a listener for downloads that can go away and come back, and checks after
// each piece that it never was above its cap.
type replica struct {
	t        *testing.T
	addr     string
	handler  http.Handler
	server   *http.Server
	registry *ops.Registry
	limits   artifact.LimitsConfig

	mu    sync.Mutex // guards what follows
	began time.Time  // zero: no request yet
	sent  int64      // bytes of artifacts
	above string     // what broke the cap, if anything did
	total *atomic.Int64
}

func newReplica(t *testing.T, blobs *artifact.Blobs, limits artifact.LimitsConfig, total *atomic.Int64) *replica {
	t.Helper()
	r := &replica{t: t, registry: ops.NewRegistry(), limits: limits, total: total}
	downloads := artifact.Downloads(artifact.DownloadsConfig{
		Blobs: blobs, Files: memory{}, Limits: artifact.NewLimits(limits), Metrics: artifact.NewMetrics(r.registry), Log: slog.New(slog.DiscardHandler),
	})
	r.handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		if r.began.IsZero() {
			r.began = time.Now()
		}
		r.mu.Unlock()
		downloads.ServeHTTP(&metered{w, r, 0}, req)
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
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.server = &http.Server{Handler: r.handler}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server) // until Close
}

// stop cuts all connections.
func (r *replica) stop() { _ = r.server.Close() }

// count holds the bytes so far against what the cap allows in the time so far. That is
// an upper bound only, so a slow machine cannot break it.
func (r *replica) count(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += int64(n)
	r.total.Add(int64(n))
	took := time.Since(r.began)
	if allowed := int64(float64(r.limits.BytesPerSecond)*took.Seconds()) + r.limits.Burst(); r.sent > allowed && r.above == "" {
		r.above = fmt.Sprintf("%d bytes in %v, at most %d are allowed", r.sent, took, allowed)
	}
}

type metered struct {
	http.ResponseWriter
	r      *replica
	status int
}

func (m *metered) WriteHeader(status int) {
	m.status = status
	m.ResponseWriter.WriteHeader(status)
}

func (m *metered) Write(p []byte) (int, error) {
	n, err := m.ResponseWriter.Write(p)
	if m.status < 300 {
		m.r.count(n)
	}
	return n, err
}

func (m *metered) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// device downloads as an agent does: from the first source that gives, going on with
// what it has, and again when it was told to.
func device(ctx context.Context, client *http.Client, sources []string, sha256 string, length int) error {
	var have bytes.Buffer
	for have.Len() < length {
		wait := time.Duration(0)
		for _, source := range sources {
			err := resume(ctx, client, source, sha256, &have)
			if have.Len() == length {
				break
			}
			var later retryLater
			if errors.As(err, &later) {
				wait = max(wait, time.Duration(later)*time.Second)
			}
		}
		if have.Len() == length {
			break
		}
		select {
		case <-time.After(max(wait, 50*time.Millisecond)):
		case <-ctx.Done():
			return fmt.Errorf("%d bytes of %d: %w", have.Len(), length, ctx.Err())
		}
	}
	if digest(have.Bytes()) != sha256 {
		return errors.New("other bytes")
	}
	return nil
}

// retryLater is what a 503 said, in seconds.
type retryLater int

func (r retryLater) Error() string { return fmt.Sprintf("again in %d s", int(r)) }

var errUnexpected = errors.New("unexpected answer")

func resume(ctx context.Context, client *http.Client, source, sha256 string, have *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, "GET", source+"/artifacts/"+sha256, nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if have.Len() > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have.Len()))
		req.Header.Set("If-Range", `"`+sha256+`"`)
		want = http.StatusPartialContent
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case want:
		_, err = io.Copy(have, resp.Body)
		return err
	case http.StatusServiceUnavailable:
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if err != nil {
			return errUnexpected
		}
		return retryLater(seconds)
	}
	return errUnexpected
}

// Five hundred devices at once, at two replicas that take a hundred each and have a cap:
// the first goes down in the middle and comes back. No device fails, none is above its
// cap at any time.
func TestFiveHundredDevicesAtAnOriginThatFailsOver(t *testing.T) {
	const devices, size = 500, 256 << 10
	data := firmware(size)
	blobs := filled(t, data)
	limits := artifact.LimitsConfig{
		Concurrent: 100, PerDevice: 8, RetryAfterMin: time.Second, RetryAfterMax: 2 * time.Second, BytesPerSecond: 12 << 20,
	}
	if err := limits.Check(); err != nil {
		t.Fatal(err)
	}
	var total atomic.Int64
	first, second := newReplica(t, blobs, limits, &total), newReplica(t, blobs, limits, &total)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: devices}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()

	var sentBefore int64 // by the first, before it came back
	outage := make(chan struct{})
	go func() {
		defer close(outage)
		await := func(share int64) {
			for total.Load() < devices*size*share/100 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		await(20)
		first.stop()
		await(50)
		first.mu.Lock()
		sentBefore = first.sent
		first.mu.Unlock()
		first.start()
	}()
	var wg sync.WaitGroup
	sources := []string{"http://" + first.addr, "http://" + second.addr}
	for i := range devices {
		wg.Go(func() {
			if err := device(ctx, client, sources, digest(data), size); err != nil {
				t.Errorf("device %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	<-outage
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

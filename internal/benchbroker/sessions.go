package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/topics"
)

const (
	cohort       = "bench"
	manifestSize = 4 << 10
	// perAddress is how many connections come from one loopback address, well
	// below the number of its ports.
	perAddress = 20000
)

// sessions connects everybody, measures what an idle session costs, and then
// how long a retained manifest takes to reach all of them.
func (b *bench) sessions(ctx context.Context, s server, p *running, out figures) error {
	before, err := settled(ctx, p.PID(), min(b.Settle, time.Second))
	if err != nil {
		return err
	}
	links := make([]*link, b.Sessions)
	defer func() {
		for _, l := range links {
			if l != nil {
				l.drop()
			}
		}
	}()
	if err := b.connectAll(ctx, p, links); err != nil {
		return err
	}
	b.log.Info("connected; waiting for its memory to settle", "server", s.name, "sessions", len(links))
	after, err := settled(ctx, p.PID(), b.Settle)
	if err != nil {
		return err
	}
	out[figureMemory] = float64(after-before) / float64(len(links)) / 1024
	b.log.Info("idle sessions", "server", s.name, "before_mb", before>>20, "after_mb", after>>20, "kib_each", fmt.Sprintf("%.1f", out[figureMemory]))
	if s.ours && b.Heap != "" {
		if err := saveHeap(ctx, p.Addr("ops"), b.Heap); err != nil {
			return err
		}
	}
	return b.fanOut(ctx, s, p, links, out)
}

// connectAll connects the devices, each subscribed to its commands, which never
// come here.
func (b *bench) connectAll(ctx context.Context, p *running, links []*link) error {
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.Connecting)
	for i := range links {
		g.Go(func() error {
			var local net.IP
			if n := i / perAddress; n > 0 {
				local = net.IPv4(127, 0, 0, byte(1+n))
			}
			l, err := dial(ctx, p, local, b.devices[i])
			if err != nil {
				return err
			}
			links[i] = l
			if n := done.Add(1); n%5000 == 0 {
				b.log.Info("connecting", "connected", n)
			}
			return l.subscribe(topics.DeviceCommand(deviceID(i)), nil)
		})
	}
	return g.Wait()
}

func saveHeap(ctx context.Context, addr, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// fanOut publishes a retained manifest, again and again, and measures when each
// session has it.
func (b *bench) fanOut(ctx context.Context, s server, p *running, links []*link, out figures) error {
	fleetd, err := b.fleetd("publisher")
	if err != nil {
		return err
	}
	publisher, err := dial(ctx, p, nil, fleetd)
	if err != nil {
		return err
	}
	defer publisher.drop()
	if s.ours { // a device may read the manifests that its assignment names
		if _, err := publisher.publish(1024, p.protocol.assignments(len(links))); err != nil {
			return fmt.Errorf("assign: %w", err)
		}
	}
	var g errgroup.Group
	g.SetLimit(b.Connecting)
	for _, l := range links {
		g.Go(func() error { return l.subscribe(topics.CohortManifest(cohort), nil) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	payload := noise(manifestSize)
	p50, p99, missing := []float64{}, []float64{}, 0
	for version := range b.Rounds {
		took, err := fanOutOnce(publisher, links, p.protocol.publish(nil, 1, topics.CohortManifest(cohort), payload, int64(version+1)))
		if err != nil {
			return err
		}
		missing += len(links) - len(took)
		p50 = append(p50, ms(percentile(took, 50)))
		p99 = append(p99, ms(percentile(took, 99)))
	}
	out[figureFanOut50], out[figureFanOut99], out[figureFanOutMissing] = median(p50), median(p99), float64(missing)
	b.log.Info("fan-out", "server", s.name, "p50_ms", rounded(p50), "p99_ms", rounded(p99), "missing", missing)
	return nil
}

// fanOutOnce publishes once and returns, sorted, after how long each session had
// it; those that never got it are missing.
func fanOutOnce(publisher *link, links []*link, publication []byte) ([]time.Duration, error) {
	arrived := make([]time.Time, len(links))
	failed := make([]error, len(links))
	var reading, done sync.WaitGroup
	reading.Add(len(links))
	for i, l := range links {
		done.Go(func() {
			reading.Done()
			failed[i] = l.consume(patience, func(m received) bool {
				arrived[i] = m.at
				return false
			})
		})
	}
	reading.Wait()
	time.Sleep(200 * time.Millisecond) // the last ones are about to read; a little quiet for all servers alike
	began := time.Now()
	_, err := publisher.publish(1, once(publication))
	done.Wait()
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for i, at := range arrived {
		if failed[i] != nil {
			return nil, failed[i]
		}
		if !at.IsZero() {
			took = append(took, at.Sub(began))
		}
	}
	slices.Sort(took)
	return took, nil
}

// once publishes what is encoded already.
func once(publication []byte) func([]byte, uint16) ([]byte, bool) {
	more := true
	return func(b []byte, _ uint16) ([]byte, bool) {
		defer func() { more = false }()
		if !more {
			return b, false
		}
		return append(b, publication...), true
	}
}

// assignments publishes an assignment to each of n devices. It is as much of
// one as a broker reads.
func (v protocol) assignments(n int) func([]byte, uint16) ([]byte, bool) {
	payload := []byte(`{"signatures":[],"signed":{"_type":"targets","groundswell":{"kind":"assignment","cohorts":["` + cohort + `"],"padding":"`)
	for len(payload) < 253 {
		payload = append(payload, 'x')
	}
	payload = append(payload, `"}}}`...)
	i := 0
	return func(b []byte, id uint16) ([]byte, bool) {
		if i == n {
			return b, false
		}
		b = v.publish(b, id, topics.DeviceAssignment(deviceID(i)), payload, 1)
		i++
		return b, true
	}
}

// noise is a payload that does not compress, the same in every run.
func noise(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

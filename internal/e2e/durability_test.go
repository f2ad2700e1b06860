package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/simulated"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// reporter publishes reports for as long as it may, over as many connections
// as that takes, and remembers which were acknowledged.
type reporter struct {
	device *simulated.Device
	mu     sync.Mutex
	acked  []int64
}

func (r *reporter) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acked)
}

func (r *reporter) run(ctx context.Context, s topics.Status) {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		n, err := r.device.Report(attempt, s)
		if err == nil {
			r.mu.Lock()
			r.acked = append(r.acked, n)
			r.mu.Unlock()
		} else if ctx.Err() == nil {
			_, _ = r.device.CheckIn(attempt) // the next report finds out
		}
		cancel()
	}
}

// TestNoAcknowledgedReportIsLostWhenBrokerAndFleetdAreKilled: what got a PUBACK
// is in PostgreSQL in the end, whatever was killed in between.
func TestNoAcknowledgedReportIsLostWhenBrokerAndFleetdAreKilled(t *testing.T) {
	p := start(t, 4, stack.Options{WithoutInflux: true, PostgresFsync: true})
	r := p.rollout()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	reporters := make([]*reporter, len(p.devices))
	for i, d := range p.devices {
		p.connect(d)
		reporters[i] = &reporter{device: d}
		wg.Go(func() { reporters[i].run(ctx, status(r, topics.StateDownloading)) })
	}
	progress := func() {
		t.Helper()
		for _, rep := range reporters {
			from := rep.count()
			devtest.Eventually(t, time.Minute, "acknowledgements for "+rep.device.ID, devtest.True(func() bool { return rep.count() > from+20 }))
		}
	}
	progress()
	p.Broker.Kill()
	if err := p.RestartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress()
	p.Fleetd.Kill()
	progress() // devices are served while fleetd is down
	if err := p.RestartFleetd(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress()
	// Both at once, the broker first again.
	p.Fleetd.Kill()
	p.Broker.Kill()
	if err := p.RestartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress()
	if err := p.RestartFleetd(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress()
	cancel()
	wg.Wait()
	for _, rep := range reporters {
		p.mustHold(rep.device.ID, rep.acked)
	}
}

// TestReportsWaitForPostgres: with PostgreSQL down, devices are acknowledged,
// and nothing is lost when it is back, although the fleetd that had taken the
// reports and could not store them was killed meanwhile.
func TestReportsWaitForPostgres(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true, PostgresFsync: true})
	r := p.rollout()
	d := p.devices[0]
	p.connect(d)
	n, err := d.Report(t.Context(), status(r, topics.StateDownloading))
	if err != nil {
		t.Fatal(err)
	}
	p.mustHold(d.ID, []int64{n}) // and with it all that went before
	p.Postgres.Kill()
	var acked []int64
	for range 50 {
		n, err := d.Report(t.Context(), status(r, topics.StateDownloading))
		if err != nil {
			t.Fatal(err)
		}
		acked = append(acked, n)
	}
	devtest.Eventually(t, time.Minute, "fleetd to have tried", devtest.True(func() bool {
		return strings.Contains(p.Fleetd.LogTail(200), "batch not stored")
	}))
	p.Fleetd.Kill()
	if err := p.Postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.RestartFleetd(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.mustHold(d.ID, acked)
}

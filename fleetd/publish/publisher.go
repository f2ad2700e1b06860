package publish

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/fleetd/store"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// Config of a Publisher. Store and Servers are required.
type Config struct {
	Store   *store.Store
	Servers []string // as mqttclient.Config.Servers
	// Region is that of Servers; default store.DefaultRegion. Regions are further
	// ones, which Servers forward to.
	Region  string
	Regions []string
	TLS     *tls.Config
	// ClientID is made unique by a random part. Default "fleetd-publish".
	ClientID string
	// Poll is how often the outbox is looked at without being woken, and how
	// soon what another replica left behind is found. Default 2 s.
	Poll time.Duration
	// Reconcile is how often broker and PostgreSQL are compared, beside at
	// each connect. Default 10 min.
	Reconcile time.Duration
	// MaxAssignments is up to how many devices assignments are compared too; in
	// larger fleets heartbeats say who lacks one. Default 100,000.
	MaxAssignments int
	Log            *slog.Logger // nil: silent
}

// Stats count what a Publisher did since it was made.
type Stats struct {
	Published  int64 // acknowledged by the broker
	Failed     int64 // to be tried again
	Superseded int64 // signed anew because the broker was ahead
	Reconciled int64 // comparisons finished
}

// Publisher brings the outbox to the broker.
type Publisher struct {
	cfg Config
	to  []*destination // the own region first
	up  chan struct{}  // capacity 1: connected, compare

	published, failed, superseded, reconciled atomic.Int64
}

const (
	// claimFor is how long a claimed row is left to its claimer; longer than
	// ackTimeout, so that nobody else publishes what is still under way.
	claimFor   = 20 * time.Second
	ackTimeout = 10 * time.Second
	// forwardTimeout is longer than the broker waits for another region by default.
	forwardTimeout = 15 * time.Second
	// regionPause is the longest pause before another region is tried again.
	regionPause = 4 * time.Second
	// window is how many messages of a lane are under way at once.
	window = 64
)

// New makes a Publisher. It does no I/O.
func New(cfg Config) (*Publisher, error) {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	or(&cfg.Poll, 2*time.Second)
	or(&cfg.Reconcile, 10*time.Minute)
	if cfg.MaxAssignments <= 0 {
		cfg.MaxAssignments = 100_000
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "fleetd-publish"
	}
	cfg.ClientID += "-" + rand.Text()[:8]
	if cfg.Region == "" {
		cfg.Region = store.DefaultRegion
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{cfg: cfg, up: make(chan struct{}, 1)}
	for i, region := range append([]string{cfg.Region}, cfg.Regions...) {
		d, err := p.newDestination(region, i)
		if err != nil {
			return nil, err
		}
		p.to = append(p.to, d)
	}
	return p, nil
}

func (p *Publisher) connection(id string) mqttclient.Config {
	return mqttclient.Config{
		Servers: p.cfg.Servers, TLS: p.cfg.TLS, ClientID: id, CleanStart: true, KeepAlive: 20 * time.Second, AckTimeout: ackTimeout,
		ReceiveMaximum: 256, MaxPacketSize: topics.MaxPacket, Log: p.cfg.Log,
		Backoff: mqttclient.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second},
	}
}

// Ready is nil when the broker is connected, else an error that says so. What becomes
// of other regions does not count.
func (p *Publisher) Ready() error {
	if p.to[0].client.Connected() {
		return nil
	}
	return mqttclient.ErrNotConnected
}

// Stats counts what was done so far.
func (p *Publisher) Stats() Stats {
	return Stats{p.published.Load(), p.failed.Load(), p.superseded.Load(), p.reconciled.Load()}
}

// Run publishes until ctx ends, then returns nil.
func (p *Publisher) Run(outer context.Context) error {
	ctx, stop := context.WithCancel(outer)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, d := range p.to {
		for _, l := range d.lanes {
			running.Go(func() { p.drive(ctx, d, l) })
		}
	}
	running.Go(func() { p.listen(ctx) })
	running.Go(func() { p.compareLoop(ctx) })
	connections, either := errgroup.WithContext(ctx)
	for _, d := range p.to {
		connections.Go(func() error { return d.client.Run(either) })
	}
	if err := connections.Wait(); err != nil && outer.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// listen wakes the lanes when PostgreSQL says that the outbox has something.
func (p *Publisher) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.cfg.Store.OutboxNotices(ctx, func() {
			for _, d := range p.to {
				d.notice()
			}
		})
		if ctx.Err() != nil {
			return
		}
		// Until it is back, the poll finds what there is.
		p.cfg.Log.Warn("no notices from the outbox, listening again", "err", err)
		pause(ctx, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

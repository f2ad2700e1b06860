package publish

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/fleetd/store"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// Config of a Publisher. Store and Servers are required.
type Config struct {
	Store   *store.Store
	Servers []string // as mqttclient.Config.Servers
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
	cfg    Config
	client *mqttclient.Client
	lanes  []*lane
	up     chan struct{} // capacity 1: connected, compare

	published, failed, superseded, reconciled atomic.Int64
}

// lane is a part of the outbox that does not wait for the others.
type lane struct {
	kinds []topics.Kind
	wake  chan struct{} // capacity 1: several notices are one
}

func (l *lane) notice() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

const (
	// claimFor is how long a claimed row is left to its claimer; longer than
	// ackTimeout, so that nobody else publishes what is still under way.
	claimFor   = 20 * time.Second
	ackTimeout = 10 * time.Second
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
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{cfg: cfg, up: make(chan struct{}, 1), lanes: []*lane{
		{[]topics.Kind{topics.KindManifest, topics.KindCommand}, make(chan struct{}, 1)},
		{[]topics.Kind{topics.KindAssignment}, make(chan struct{}, 1)},
	}}
	settings := p.connection(cfg.ClientID)
	settings.OnUp = func(context.Context, *mqttclient.Client, bool) error {
		for _, l := range p.lanes {
			l.notice()
		}
		select {
		case p.up <- struct{}{}:
		default:
		}
		return nil
	}
	client, err := mqttclient.New(settings)
	if err != nil {
		return nil, err
	}
	p.client = client
	return p, nil
}

func (p *Publisher) connection(id string) mqttclient.Config {
	return mqttclient.Config{
		Servers: p.cfg.Servers, TLS: p.cfg.TLS, ClientID: id, CleanStart: true, KeepAlive: 20 * time.Second, AckTimeout: ackTimeout,
		ReceiveMaximum: 256, MaxPacketSize: topics.MaxPacket, Log: p.cfg.Log,
		Backoff: mqttclient.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second},
	}
}

// Ready is nil when the broker is connected, else an error that says so.
func (p *Publisher) Ready() error {
	if p.client.Connected() {
		return nil
	}
	return mqttclient.ErrNotConnected
}

// Stats counts what was done so far.
func (p *Publisher) Stats() Stats {
	return Stats{p.published.Load(), p.failed.Load(), p.superseded.Load(), p.reconciled.Load()}
}

// Run publishes until ctx ends, then returns nil.
func (p *Publisher) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, l := range p.lanes {
		running.Go(func() { p.drive(ctx, l) })
	}
	running.Go(func() { p.listen(ctx) })
	running.Go(func() { p.compareLoop(ctx) })
	if err := p.client.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// listen wakes the lanes when PostgreSQL says that the outbox has something.
func (p *Publisher) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.cfg.Store.OutboxNotices(ctx, func() {
			for _, l := range p.lanes {
				l.notice()
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

// drive drains a lane whenever there may be something in it.
func (p *Publisher) drive(ctx context.Context, l *lane) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-time.After(p.cfg.Poll/2 + mathrand.N(p.cfg.Poll)):
		}
		for ctx.Err() == nil && p.client.Connected() {
			n, err := p.drain(ctx, l)
			if err != nil {
				if ctx.Err() == nil {
					p.cfg.Log.Error("outbox not drained, tries again", "err", err)
				}
				break
			}
			if n == 0 {
				break
			}
		}
	}
}

// drain publishes what is due, at most a window of it, and reports how many
// rows it found.
func (p *Publisher) drain(ctx context.Context, l *lane) (int, error) {
	rows, err := p.cfg.Store.ClaimOutbox(ctx, l.kinds, window, claimFor)
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(rows))
	finished := make([]bool, len(rows))
	var under sync.WaitGroup
	for i, row := range rows {
		under.Go(func() { finished[i], errs[i] = p.publish(ctx, row) })
	}
	under.Wait()
	var done []store.OutboxRow
	for i, row := range rows {
		if finished[i] {
			done = append(done, row)
		}
	}
	// Also at the end: what the broker has acknowledged need not go out again.
	note, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return len(rows), errors.Join(append(errs, p.cfg.Store.Published(note, done...))...)
}

// publish brings one row to the broker, and reports whether it is finished
// with. Its error is one of the database; what the broker does not take is given
// back to the outbox.
func (p *Publisher) publish(ctx context.Context, row store.OutboxRow) (finished bool, err error) {
	m := mqttclient.Publication{Topic: row.Topic, Payload: row.Payload, QoS: 1}
	switch {
	case row.Payload == nil:
		return true, nil // what it was about is gone
	case row.Kind == topics.KindCommand:
		if m.Expiry = time.Until(row.ExpiresAt); m.Expiry <= 0 {
			return true, nil // nobody needs it any more
		}
	default:
		m.Retain = true
		m.Properties = []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(row.Version, 10)}}
	}
	err = p.client.Publish(ctx, m)
	if err == nil {
		p.published.Add(1)
		return true, nil
	}
	if ctx.Err() != nil {
		// It may be there or not: the claim runs out, and it goes out again.
		return false, ctx.Err()
	}
	p.failed.Add(1)
	if code, ok := mqttclient.Refused(err); ok && code == codeStale && m.Retain {
		return false, p.overtake(ctx, row)
	}
	p.cfg.Log.Warn("not published, tries again", "topic", row.Topic, "version", row.Version, "attempts", row.Attempts, "err", err)
	delay := min(100*time.Millisecond<<min(row.Attempts, 10), 30*time.Second)
	if _, refused := mqttclient.Refused(err); !refused {
		delay = 0 // the connection went; it counts when it is back
	}
	return false, p.cfg.Store.NotPublished(ctx, row, delay, err.Error())
}

// codeStale is how the broker refuses a version that is not above the retained
// one, when the bytes differ.
const codeStale = 0x83

// overtake has a row signed anew above what the broker holds.
func (p *Publisher) overtake(ctx context.Context, row store.OutboxRow) error {
	held, err := p.retained(ctx, row.Topic)
	if err != nil {
		p.cfg.Log.Warn("refused as stale, but what the broker holds cannot be read; tries again", "topic", row.Topic, "err", err)
		return p.cfg.Store.NotPublished(ctx, row, time.Second, err.Error())
	}
	version := row.Version
	if h, ok := held[row.Topic]; ok {
		version = h.version
	}
	p.cfg.Log.Warn("the broker is ahead, signing anew above it", "topic", row.Topic, "version", row.Version, "retained", version)
	p.superseded.Add(1)
	return p.cfg.Store.Supersede(ctx, row.Kind, row.ID, version)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

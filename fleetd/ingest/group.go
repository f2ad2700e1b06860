package ingest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/fleetd/store"
	"groundswell/internal/mqttclient"
	"groundswell/internal/ops"
	"groundswell/topics"
)

const (
	// window is how many messages may be under way to us unacknowledged.
	window = 1024
	// batchSize is half the window, so that one batch arrives while the other
	// is stored.
	batchSize = window / 2
	// linger is how long a batch that is not full waits for more.
	linger = 20 * time.Millisecond
	// The pauses between attempts to store a batch.
	firstPause, longestPause = 50 * time.Millisecond, 5 * time.Second
	// stuck is after how long without success readiness says so.
	stuck = 10 * time.Second
)

// handler makes one attempt to store a batch. An error means that trying again
// may help.
type handler func(ctx context.Context, batch []store.UplinkRecord) error

// group is one consumer group: a connection, and a loop that stores batches.
type group struct {
	name   string
	handle handler
	region string
	client *mqttclient.Client
	queue  chan mqttclient.Message
	done   chan struct{} // closed when the loop has ended
	log    *slog.Logger

	messages, retries ops.Counter
	behind            ops.Gauge

	mu         sync.Mutex // guards what follows
	subscribed bool
	failing    time.Time // since when; zero: not
	failure    error
}

// Config is how to reach the broker.
type Config struct {
	Servers []string
	TLS     *tls.Config
	// ClientID is the same for no two connections on the broker; the group's
	// name is added.
	ClientID string
	Region   string // whose broker it is; empty: store.DefaultRegion
	Metrics  *Metrics
	Log      *slog.Logger
}

// Metrics are shared by the groups.
type Metrics struct {
	messages, retries, dead, peers ops.CounterVec
	behind                         ops.GaugeVec
}

// NewMetrics registers them.
func NewMetrics(r *ops.Registry) *Metrics {
	return &Metrics{
		messages: r.NewCounterVec("groundswell_ingest_messages_total", "Messages of devices that were stored and acknowledged.", "group"),
		retries:  r.NewCounterVec("groundswell_ingest_retries_total", "Attempts to store a batch that failed and were repeated.", "group"),
		dead:     r.NewCounterVec("groundswell_ingest_dead_total", "Messages that can never be stored.", "group"),
		peers:    r.NewCounterVec("groundswell_peer_faults_total", "How often devices' peers were wrong (sent other bytes), failed (did not deliver) or away, in attempts that have ended.", "kind"),
		behind:   r.NewGaugeVec("groundswell_ingest_behind_seconds", "Age of the newest message stored, when it was stored.", "group"),
	}
}

func newGroup(name string, cfg Config, handle handler) (*group, error) {
	g := &group{
		name: name, handle: handle, region: cfg.Region, queue: make(chan mqttclient.Message, window), done: make(chan struct{}),
		log:      cfg.Log.With("group", name),
		messages: cfg.Metrics.messages.With(name), retries: cfg.Metrics.retries.With(name), behind: cfg.Metrics.behind.With(name),
	}
	client, err := mqttclient.New(mqttclient.Config{
		Servers: cfg.Servers, TLS: cfg.TLS, ClientID: cfg.ClientID + "-" + name,
		// The group outlives the session, so the session need not last.
		CleanStart: true, ReceiveMaximum: window, MaxPacketSize: topics.MaxPacket, ManualAck: true,
		KeepAlive: 20 * time.Second, Backoff: mqttclient.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second},
		OnMessage: g.receive, OnUp: g.subscribe, OnDown: g.lost, Log: g.log,
	})
	if err != nil {
		return nil, fmt.Errorf("ingest %s: %w", name, err)
	}
	g.client = client
	return g, nil
}

func (g *group) subscribe(ctx context.Context, c *mqttclient.Client, _ bool) error {
	err := c.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.Share(g.name, topics.Uplink), QoS: 1, RetainHandling: mqttclient.RetainIgnore}})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	g.mu.Lock()
	g.subscribed = true
	g.mu.Unlock()
	return nil
}

// receive takes a message. It blocks only while more than a window waits,
// which happens when messages of a connection that was lost are still there.
func (g *group) receive(m mqttclient.Message) {
	select {
	case g.queue <- m:
	case <-g.done:
	}
}

// lost lets go of what waits: it cannot be acknowledged any more, and comes
// again.
func (g *group) lost(error) {
	g.mu.Lock()
	g.subscribed = false
	g.mu.Unlock()
	for {
		select {
		case <-g.queue:
		default:
			return
		}
	}
}

// run stores batches until ctx ends.
func (g *group) run(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return g.client.Run(ctx) })
	running.Go(func() error { return g.loop(ctx) })
	return running.Wait()
}

func (g *group) loop(ctx context.Context) error {
	defer close(g.done)
	for {
		batch := g.next(ctx)
		if len(batch) == 0 {
			return nil
		}
		g.store(ctx, batch)
	}
}

// next waits for messages. It returns none when ctx has ended.
func (g *group) next(ctx context.Context) []mqttclient.Message {
	var batch []mqttclient.Message
	select {
	case m := <-g.queue:
		batch = append(batch, m)
	case <-ctx.Done():
		return nil
	}
	enough := time.NewTimer(linger)
	defer enough.Stop()
	for len(batch) < batchSize {
		select {
		case m := <-g.queue:
			batch = append(batch, m)
		case <-enough.C:
			return batch
		case <-ctx.Done():
			return nil
		}
	}
	return batch
}

// store stores a batch, however long that takes, and acknowledges it.
func (g *group) store(ctx context.Context, batch []mqttclient.Message) {
	records := make([]store.UplinkRecord, len(batch))
	for i := range batch {
		records[i] = recordOf(&batch[i])
		records[i].Region = g.region
	}
	pause := firstPause
	for {
		err := g.handle(ctx, records)
		if ctx.Err() != nil && err != nil {
			return // not acknowledged: it comes again
		}
		g.note(err)
		if err == nil {
			break
		}
		g.retries.Inc()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, longestPause)
	}
	for i := range batch {
		if err := batch[i].Ack(); err != nil {
			break // the connection is gone, for all of them: they come again
		}
		g.messages.Inc()
	}
	g.behind.Set(time.Since(records[len(records)-1].Stored).Seconds())
}

// note keeps how long storing has failed, and logs when that changes.
func (g *group) note(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil && g.failing.IsZero():
		g.failing = time.Now()
		g.log.Warn("batch not stored, trying again", "err", err)
	case err == nil && !g.failing.IsZero():
		g.log.Info("batches are stored again", "after", time.Since(g.failing).Round(time.Millisecond).String())
		g.failing = time.Time{}
	}
	g.failure = err
}

var errNotSubscribed = errors.New("not subscribed at the broker")

// ready is nil while messages flow.
func (g *group) ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.subscribed:
		return errNotSubscribed
	case !g.failing.IsZero() && time.Since(g.failing) > stuck:
		return fmt.Errorf("nothing stored since %s: %w", g.failing.UTC().Format(time.RFC3339), g.failure)
	}
	return nil
}

// recordOf reads the broker's stamp. What is missing or malformed is zero, and
// the time of storing then is now.
func recordOf(m *mqttclient.Message) store.UplinkRecord {
	number := func(key string) int64 {
		text, _ := m.Property(key)
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	r := store.UplinkRecord{Topic: m.Topic, Payload: m.Payload, Shard: number(topics.PropShard), Sequence: number(topics.PropSequence), Stored: time.Now()}
	if ms := number(topics.PropStored); ms > 0 {
		r.Stored = time.UnixMilli(ms)
	}
	r.Model, _ = m.Property(topics.PropModel)
	r.Hardware, _ = m.Property(topics.PropHardware)
	return r
}

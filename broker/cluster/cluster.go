package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/internal/ops"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// AckWait is how long after the last sign of a member the store hands a
	// message to another. What is still held must be renewed well before; what
	// a killed broker held comes again after it.
	AckWait = 12 * time.Second
	// maxAckPending bounds what all members of a group hold together.
	maxAckPending = 1 << 16
	startTimeout  = 30 * time.Second
)

// Cluster is the embedded server and its streams.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	metrics metrics

	server *server.Server
	// One connection per kind of traffic, so that none waits behind another.
	publishing *nats.Conn
	consuming  *nats.Conn
	retaining  *nats.Conn
	admin      jetstream.JetStream // on retaining
	uplink     jetstream.JetStream // on publishing
	retained   jetstream.Stream
	present    jetstream.Stream
	streams    []jetstream.Stream // uplink, by shard
	groups     map[string]*Group
	watched    uint64 // last retained sequence before Open

	presentLast uint64 // last sequence of present before Open

	mu      sync.Mutex // guards pending
	pending map[*nats.Msg]func(Stored, error)
	puts    []chan *put
	putters sync.WaitGroup
	closing chan struct{}
	commit  *committer      // nil unless Sync is "always"
	durable []atomic.Uint64 // by shard, the last sequence known to be on the disk
}

// New returns a store that is not open. cfg must be valid.
func New(cfg Config, reg *ops.Registry, log *slog.Logger) *Cluster {
	c := &Cluster{
		cfg: cfg, log: log, groups: map[string]*Group{},
		pending: map[*nats.Msg]func(Stored, error){},
		closing: make(chan struct{}),
		durable: make([]atomic.Uint64, cfg.Shards),
	}
	c.metrics = newMetrics(reg, c)
	return c
}

// Open starts the server and makes sure that the streams and the groups exist.
// After an error nothing is left running.
func (c *Cluster) Open(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.server, err = server.NewServer(&server.Options{
		ServerName:         c.cfg.Node,
		DontListen:         true,
		JetStream:          true,
		StoreDir:           c.cfg.Dir,
		SyncInterval:       c.cfg.Sync.Interval, // 0, its default of minutes, when the committer does it
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  c.cfg.MaxUplinkBytes + 2*c.cfg.MaxRetainedBytes + 64<<20,
		NoSigs:             true,
		NoLog:              true,
		NoSystemAccount:    false,
	})
	if err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	c.server.SetLoggerV2(natsLog{c.log}, false, false, false)
	c.server.Start()
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if !c.server.ReadyForConnections(startTimeout) {
		return fmt.Errorf("embedded NATS server: %w: not ready within %v", ErrUnavailable, startTimeout)
	}
	if !c.server.JetStreamEnabled() {
		return fmt.Errorf("embedded NATS server: %w: JetStream did not start", ErrUnavailable)
	}
	for _, conn := range []**nats.Conn{&c.publishing, &c.consuming, &c.retaining} {
		if *conn, err = c.connect(); err != nil {
			return fmt.Errorf("connect to the embedded NATS server: %w", err)
		}
	}
	if c.admin, err = jetstream.New(c.retaining, jetstream.WithDefaultTimeout(c.cfg.StoreTimeout)); err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	c.uplink, err = jetstream.New(c.publishing,
		jetstream.WithPublishAsyncMaxPending(c.cfg.MaxPending+1),
		jetstream.WithPublishAsyncTimeout(c.cfg.StoreTimeout),
		jetstream.WithPublishAsyncAckHandler(c.stored),
		jetstream.WithPublishAsyncErrHandler(c.refused))
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	if err = c.openStreams(ctx); err != nil {
		return err
	}
	if c.cfg.Sync.Always {
		c.commit = newCommitter(c.cfg.Dir)
		c.commit.start()
		// What a killed process left may be in the kernel's memory only.
		if err = c.awaitCommit(); err != nil {
			return err
		}
	}
	c.startPutters()
	c.log.Info("store open", "dir", c.cfg.Dir, "sync", c.cfg.Sync.String(),
		"shards", c.cfg.Shards, "groups", c.cfg.Groups, "replicas", 1)
	if !c.cfg.Sync.Always {
		c.log.Warn("acknowledged reports of the last interval are lost when the power goes", "sync", c.cfg.Sync.String())
	}
	return nil
}

func (c *Cluster) connect() (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(c.server), nats.Name(c.cfg.Node),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.log.Warn("connection to the embedded NATS server", "err", err)
		}))
}

// openStreams makes the streams and the groups.
func (c *Cluster) openStreams(ctx context.Context) error {
	var err error
	c.retained, err = c.admin.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: retainedStream, Subjects: []string{retainedPrefix + ">"},
		Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, MaxBytes: c.cfg.MaxRetainedBytes,
		Replicas: 1, AllowDirect: true, Duplicates: time.Second,
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", retainedStream, err)
	}
	info, err := c.retained.Info(ctx)
	if err != nil {
		return fmt.Errorf("stream %s: %w", retainedStream, err)
	}
	c.watched = info.State.LastSeq
	if err := c.openPresent(ctx); err != nil {
		return err
	}
	if err := c.checkShards(ctx); err != nil {
		return err
	}
	for _, name := range c.cfg.Groups {
		c.groups[name] = &Group{Name: name, cluster: c}
	}
	consuming, err := jetstream.New(c.consuming, jetstream.WithDefaultTimeout(c.cfg.StoreTimeout))
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	for shard := range c.cfg.Shards {
		name := uplinkStream(shard)
		stream, err := c.admin.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{fmt.Sprintf("%s%d.>", uplinkPrefix, shard)},
			Storage: jetstream.FileStorage, Retention: jetstream.InterestPolicy,
			Discard: jetstream.DiscardNew, MaxBytes: c.cfg.MaxUplinkBytes / int64(c.cfg.Shards),
			Replicas: 1, Duplicates: time.Second,
		})
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		c.streams = append(c.streams, stream)
		c.durable[shard].Store(stream.CachedInfo().State.LastSeq)
		for _, group := range c.cfg.Groups {
			consumer, err := consuming.CreateOrUpdateConsumer(ctx, name, jetstream.ConsumerConfig{
				Durable: group, AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
				MaxDeliver: -1, MaxAckPending: maxAckPending, DeliverPolicy: jetstream.DeliverAllPolicy,
			})
			if err != nil {
				return fmt.Errorf("group %s on stream %s: %w", group, name, err)
			}
			c.groups[group].shards = append(c.groups[group].shards, consumer)
		}
		for info := range stream.ListConsumers(ctx).Info() {
			if !slices.Contains(c.cfg.Groups, info.Name) {
				c.log.Error("a group is stored but not declared: its backlog is kept and fills the store",
					"group", info.Name, "shard", shard, "backlog", info.NumPending+uint64(info.NumAckPending))
			}
		}
	}
	return nil
}

// checkShards refuses a number of shards that differs from the stored one: a
// device would move to another shard, and fewer shards would strand messages.
func (c *Cluster) checkShards(ctx context.Context) error {
	have := 0
	names := c.admin.StreamNames(ctx)
	for name := range names.Name() {
		if strings.HasPrefix(name, "uplink-") {
			have++
		}
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("list streams: %w", err)
	}
	if have != 0 && have != c.cfg.Shards {
		return fmt.Errorf("shards: the store in %s has %d, the configuration says %d", c.cfg.Dir, have, c.cfg.Shards)
	}
	return nil
}

// Close stops everything. What is under way fails with ErrUnavailable. It may
// be called after a failed Open, and once.
func (c *Cluster) Close() {
	close(c.closing)
	c.putters.Wait()
	if c.consuming != nil {
		_ = c.consuming.FlushTimeout(time.Second) // returned loans; at worst they come again after AckWait
	}
	for _, conn := range []*nats.Conn{c.publishing, c.consuming, c.retaining} {
		if conn != nil {
			conn.Close()
		}
	}
	if c.commit != nil {
		c.commit.close()
	}
	c.failPending()
	if c.server != nil {
		c.server.Shutdown()
		c.server.WaitForShutdown()
	}
}

// Ready is nil when messages can be stored and the groups exist.
func (c *Cluster) Ready(ctx context.Context) error {
	if c.server == nil || !c.server.JetStreamEnabled() {
		return fmt.Errorf("%w: JetStream does not run", ErrUnavailable)
	}
	if c.commit != nil {
		if err := c.commit.err(); err != nil {
			return err
		}
	}
	for shard, stream := range c.streams {
		info, err := stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, uplinkStream(shard), err)
		}
		if info.State.Consumers < len(c.cfg.Groups) {
			return fmt.Errorf("%w: %s has %d groups, %d are declared", ErrUnavailable, uplinkStream(shard), info.State.Consumers, len(c.cfg.Groups))
		}
	}
	return nil
}

// storeError translates what JetStream says.
func storeError(err error) error {
	if err == nil {
		return nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case 10077, 10023, 10047, 10122: // store failed (maximum bytes), out of resources, out of storage
			return fmt.Errorf("%w: %s", ErrFull, api.Description)
		case 10167, 429: // too many requests
			return fmt.Errorf("%w: %s", ErrBusy, api.Description)
		}
		if api.Code == 429 {
			return fmt.Errorf("%w: %s", ErrBusy, api.Description)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// natsLog passes on what an operator should know of the embedded server.
type natsLog struct{ log *slog.Logger }

func (l natsLog) Noticef(format string, v ...any) {
	l.log.Debug("nats", "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Warnf(format string, v ...any) {
	l.log.Warn("nats", "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Errorf(format string, v ...any) {
	l.log.Error("nats", "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Fatalf(format string, v ...any) {
	l.log.Error("nats", "text", fmt.Sprintf(format, v...))
}
func (l natsLog) Debugf(string, ...any) {}
func (l natsLog) Tracef(string, ...any) {}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
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

	opened atomic.Bool
	server *server.Server
	login  nats.Option // how this process authenticates to server
	// One connection per kind of traffic, so that none waits behind another.
	publishing *nats.Conn
	consuming  *nats.Conn
	retaining  *nats.Conn
	admin      jetstream.JetStream // on retaining
	uplink     jetstream.JetStream // on publishing
	retained   jetstream.Stream
	sessions   jetstream.Stream
	claimed    uint64 // last sequence of sessions before Open
	inbox      *Log
	open       *Log             // nil without open topics
	kept       jetstream.Stream // nil without open topics
	leases     jetstream.Stream
	shared     jetstream.Stream
	streams    []jetstream.Stream // uplink, by shard
	groups     map[string]*Group
	watched    uint64    // last retained sequence before Open
	frontier   *frontier // of retained

	gateway    *gateway                 // nil without other regions
	underway   map[string]chan struct{} // by region, a token for each publication
	forwarding sync.WaitGroup
	lanes      lanes

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
	if cfg.Gateways != nil {
		c.underway = map[string]chan struct{}{}
		for _, r := range cfg.Gateways.Remotes {
			c.underway[r.Region] = make(chan struct{}, forwards)
		}
	}
	c.metrics = newMetrics(reg, c)
	return c
}

// Open starts the server and makes sure that the streams and the groups exist.
// With peers it waits for as many of them as that needs, until ctx ends. After an
// error nothing is left running.
func (c *Cluster) Open(ctx context.Context) (err error) {
	options := &server.Options{
		ServerName:         c.cfg.Node,
		DontListen:         true,
		JetStream:          true,
		StoreDir:           c.cfg.Dir,
		SyncInterval:       c.cfg.Sync.Interval, // 0, its default of minutes, when the committer does it
		JetStreamMaxMemory: 64 << 20,
		JetStreamMaxStore:  math.MaxInt64, // each stream has a limit of its own, also those that are not used any more
		NoSigs:             true,
		MaxPayload:         MaxShared + 1<<16, // and its headers
		MaxControlLine:     maxSubject + 1024, // subjects are made of topics
		// When more requests wait it forgets all of them. One may wait for each client
		// that is connecting, on any node.
		JetStreamRequestQueueLimit: 200_000,
		NoLog:                      true,
		NoSystemAccount:            false,
	}
	if c.cfg.Peering != nil {
		if c.login, err = c.cfg.Peering.join(options); err != nil {
			return err
		}
	}
	// With replicas the server commits in groups by itself.
	options.SyncAlways = c.cfg.Sync.Always && c.replicas() > 1
	c.server, err = server.NewServer(options)
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
	if c.cfg.Restore != "" {
		if err = c.restore(ctx, c.cfg.Restore); err != nil {
			return err
		}
	}
	if c.cfg.Peering == nil { // it needs to wait for nobody
		alone, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		ctx = alone
	}
	if err = c.openStreams(ctx); err != nil {
		return err
	}
	if c.cfg.Sync.Always && c.replicas() == 1 {
		c.commit = newCommitter(c.cfg.Dir)
		c.commit.start()
		// What a killed process left may be in the kernel's memory only.
		if err = c.awaitCommit(); err != nil {
			return err
		}
	}
	if c.cfg.Gateways != nil {
		gateway, err := openGateway(c.cfg, c.log)
		if err != nil {
			return err
		}
		c.gateway = gateway
	}
	c.startPutters()
	c.opened.Store(true)
	c.log.Info("store open", "dir", c.cfg.Dir, "sync", c.cfg.Sync.String(),
		"shards", c.cfg.Shards, "groups", c.cfg.Groups, "replicas", c.replicas())
	if !c.cfg.Sync.Always {
		c.log.Warn("acknowledged reports of the last interval are lost when the power goes", "sync", c.cfg.Sync.String())
	}
	return nil
}

func (c *Cluster) connect() (*nats.Conn, error) {
	options := []nats.Option{
		nats.InProcessServer(c.server), nats.Name(c.cfg.Node),
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.log.Warn("connection to the embedded NATS server", "err", err)
		}),
	}
	if c.login != nil {
		options = append(options, c.login)
	}
	return nats.Connect("", options...)
}

// openStreams makes the streams and the groups.
func (c *Cluster) openStreams(ctx context.Context) error {
	var err error
	// Without direct gets: a follower may be behind, and a device would be told for
	// good that the last manifest but one is the newest.
	c.retained, err = c.stream(ctx, jetstream.StreamConfig{
		Name: retainedStream, Subjects: []string{retainedPrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxRetainedBytes,
	})
	if err != nil {
		return err
	}
	if c.watched, err = c.lastSequence(ctx, c.retained); err != nil {
		return err
	}
	c.frontier = newFrontier(c.watched)
	if err := c.openSessions(ctx); err != nil {
		return err
	}
	if err := c.openLogs(ctx); err != nil {
		return err
	}
	if err := c.openLeases(ctx); err != nil {
		return err
	}
	if err := c.openShared(ctx); err != nil {
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
		stream, err := c.stream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{fmt.Sprintf("%s%d.>", uplinkPrefix, shard)}, Retention: jetstream.InterestPolicy,
			MaxBytes: c.cfg.MaxUplinkBytes / int64(c.cfg.Shards), Metadata: map[string]string{shardsKey: strconv.Itoa(c.cfg.Shards)},
		})
		if err != nil {
			return err
		}
		c.streams = append(c.streams, stream)
		last, err := c.lastSequence(ctx, stream)
		if err != nil {
			return err
		}
		c.durable[shard].Store(last)
		for _, group := range c.cfg.Groups {
			var consumer jetstream.Consumer
			what := fmt.Sprintf("group %s on stream %s", group, name)
			err := c.patiently(ctx, what, func(ctx context.Context) (err error) {
				consumer, err = consuming.CreateOrUpdateConsumer(ctx, name, jetstream.ConsumerConfig{
					Durable: group, AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
					MaxDeliver: -1, MaxAckPending: maxAckPending, DeliverPolicy: jetstream.DeliverAllPolicy,
				})
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
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

// stream makes sure that a stream exists that refuses what it has no room for.
func (c *Cluster) stream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	cfg.Discard = jetstream.DiscardNew
	return c.replicated(ctx, cfg)
}

// replicated makes sure that a stream exists, with what all of them have in common.
func (c *Cluster) replicated(ctx context.Context, cfg jetstream.StreamConfig) (stream jetstream.Stream, err error) {
	cfg.Storage = jetstream.FileStorage
	cfg.Replicas, cfg.Duplicates = c.replicas(), time.Second
	err = c.patiently(ctx, "stream "+cfg.Name, func(ctx context.Context) (err error) {
		stream, err = c.admin.CreateOrUpdateStream(ctx, cfg)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", cfg.Name, err)
	}
	return stream, nil
}

// shardsKey is where the first uplink stream says how many there are.
const shardsKey = "groundswell-shards"

// checkShards refuses a number of shards that differs from the stored one: a
// device would move to another shard, and fewer shards would strand messages.
func (c *Cluster) checkShards(ctx context.Context) error {
	var first jetstream.Stream
	err := c.patiently(ctx, "stream "+uplinkStream(0), func(ctx context.Context) (err error) {
		first, err = c.admin.Stream(ctx, uplinkStream(0))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", uplinkStream(0), err)
	}
	if first == nil {
		return nil
	}
	if have := first.CachedInfo().Config.Metadata[shardsKey]; have != strconv.Itoa(c.cfg.Shards) {
		return fmt.Errorf("shards: the store in %s has %s, the configuration says %d", c.cfg.Dir, have, c.cfg.Shards)
	}
	return nil
}

// lastSequence is where a stream ends now.
func (c *Cluster) lastSequence(ctx context.Context, stream jetstream.Stream) (last uint64, err error) {
	err = c.patiently(ctx, "stream "+stream.CachedInfo().Config.Name, func(ctx context.Context) error {
		info, err := stream.Info(ctx)
		if err == nil {
			last = info.State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	return last, nil
}

// Close stops everything. What is under way fails with ErrUnavailable. It may
// be called after a failed Open, and once.
func (c *Cluster) Close() {
	close(c.closing)
	if c.gateway != nil {
		c.gateway.close() // ends what waits for an answer
		c.forwarding.Wait()
	}
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
		if c.cfg.Peering != nil {
			c.server.LameDuckShutdown() // hands leadership over before it goes
		}
		c.server.Shutdown()
		c.server.WaitForShutdown()
	}
}

// Ready is nil when messages can be stored and the groups exist.
func (c *Cluster) Ready(ctx context.Context) error {
	if !c.opened.Load() {
		return fmt.Errorf("%w: not open yet", ErrUnavailable)
	}
	if !c.server.JetStreamEnabled() {
		return fmt.Errorf("%w: JetStream does not run", ErrUnavailable)
	}
	if c.commit != nil {
		if err := c.commit.err(); err != nil {
			return err
		}
	}
	for _, stream := range []jetstream.Stream{c.retained, c.sessions, c.inbox.stream} {
		if _, err := led(ctx, stream); err != nil {
			return err
		}
	}
	for shard, stream := range c.streams {
		info, err := led(ctx, stream)
		if err != nil {
			return err
		}
		if info.State.Consumers < len(c.cfg.Groups) {
			return fmt.Errorf("%w: %s has %d groups, %d are declared", ErrUnavailable, uplinkStream(shard), info.State.Consumers, len(c.cfg.Groups))
		}
	}
	return nil
}

// led asks after a stream that can be written to: without a majority of its
// nodes it has no leader.
func led(ctx context.Context, stream jetstream.Stream) (*jetstream.StreamInfo, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, stream.CachedInfo().Config.Name, err)
	}
	if info.Cluster != nil && info.Config.Replicas > 1 && info.Cluster.Leader == "" {
		return nil, fmt.Errorf("%w: %s has no leader: too few of its nodes are there", ErrUnavailable, info.Config.Name)
	}
	return info, nil
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
	if strings.Contains(format, "will not be verified") {
		return // by the library; certs.PeerTLS verifies
	}
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

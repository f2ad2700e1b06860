package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"
	"groundswell/internal/ops"
	"groundswell/topics"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Broker is the edge of one node.
type Broker struct {
	cfg         Config
	tls         *tls.Config
	revocations certs.Revocations
	store       *cluster.Cluster
	log         *slog.Logger
	metrics     metrics

	gate      *gate
	proxies   []netip.Prefix
	listeners []*listener // TLS, and WebSocket if there is one; set before listening
	listening atomic.Bool
	server    *mochi.Server
	groups    map[string]*group
	fleet     *plane         // set before the first connection
	lab       *plane         // nil without open topics
	revoked   chan struct{}  // holds a token when the revocation list has changed
	wg        sync.WaitGroup // everything that a connection started
	stopping  atomic.Bool
	life      context.Context // of Run; set before the first connection
	loops     *sync.WaitGroup // that end with life

	notStored, turnedAway throttle

	told *tellings

	mu      sync.Mutex // guards what follows
	clients map[string]*client
	conns   map[*conn]struct{} // with a good CONNECT
	claims  map[string]*claiming
	parted  map[string]parted // that other nodes may ask for

	readers chan struct{} // holds a token for each reader of a log
}

// New returns a broker that has bound nothing. tlsConfig is that of
// certs.ServerTLS; revocations, asked again whenever RevocationsChanged was
// called, may be nil.
func New(cfg Config, tlsConfig *tls.Config, revocations certs.Revocations, store *cluster.Cluster, reg *ops.Registry, log *slog.Logger) *Broker {
	b := &Broker{
		cfg: cfg, tls: tlsConfig, revocations: revocations, store: store, log: log,
		groups:  map[string]*group{},
		revoked: make(chan struct{}, 1),
		told:    newTellings(),
		clients: map[string]*client{},
		conns:   map[*conn]struct{}{},
		claims:  map[string]*claiming{},
		parted:  map[string]parted{},
		readers: make(chan struct{}, inboxReaders),
		life:    context.Background(),
	}
	b.gate = newGate(&b.cfg.Limits)
	b.metrics = newMetrics(reg, b)
	b.server = newMochi(b)
	return b
}

// Listen binds the addresses.
func (b *Broker) Listen() error {
	var err error
	if b.proxies, err = b.cfg.ProxyProtocol.networks(); err != nil {
		return fmt.Errorf("proxy_protocol.%w", err)
	}
	if err := b.gate.fit(b.log); err != nil {
		return fmt.Errorf("limits.max_connections: %w", err)
	}
	for _, l := range []struct {
		field, address string
		web, lab       bool
	}{
		{field: "listen", address: b.cfg.Listen},
		{field: "websocket_listen", address: b.cfg.WebsocketListen, web: true},
		{field: "lab.listen", address: b.cfg.Lab.Listen, lab: true},
	} {
		if l.address == "" {
			continue
		}
		if err := b.bind(l.field, l.address, l.web, l.lab); err != nil {
			for _, bound := range b.listeners {
				_ = bound.tcp.Close() // nobody was accepted
			}
			return err
		}
	}
	b.listening.Store(true)
	return nil
}

func (b *Broker) bind(field, address string, web, lab bool) error {
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	b.listeners = append(b.listeners, &listener{
		tcp: tcp, web: web, lab: lab, tls: b.tls, gate: b.gate, proxies: b.proxies, limits: &b.cfg.Limits, metrics: &b.metrics, log: b.log,
		wg: &b.wg, serve: b.serve,
	})
	return nil
}

// Addr is the bound host:port for MQTT over TLS, "" before Listen.
func (b *Broker) Addr() string { return b.bound(false, false) }

// WebsocketAddr is the bound host:port for MQTT over WebSocket, "" without it
// and before Listen.
func (b *Broker) WebsocketAddr() string { return b.bound(true, false) }

// LabAddr is the bound host:port of the lab, "" without it and before Listen.
func (b *Broker) LabAddr() string { return b.bound(false, true) }

func (b *Broker) bound(web, lab bool) string {
	for _, l := range b.listeners {
		if l.web == web && l.lab == lab {
			return l.tcp.Addr().String()
		}
	}
	return ""
}

// Ready is nil when connections are accepted.
func (b *Broker) Ready(context.Context) error {
	if !b.listening.Load() || b.stopping.Load() {
		return errors.New("not listening")
	}
	return nil
}

// RevocationsChanged has every live connection checked against the revocation
// list soon. It does not block.
func (b *Broker) RevocationsChanged() {
	select {
	case b.revoked <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends, then says goodbye to the clients. Listen must have
// been called and the store must be open, and must stay open until Run returns.
func (b *Broker) Run(ctx context.Context) error {
	// Goodbyes still need the store and the groups, so connections end first.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	b.life = serving
	var loops sync.WaitGroup
	b.loops = &loops
	b.follow(serving, &loops)
	for _, g := range b.store.Groups() {
		b.groups[g.Name] = newGroup(b, g, topics.Share(g.Name, topics.Uplink))
	}
	for _, g := range b.groups {
		g.run(serving, &loops)
	}
	loops.Go(func() { _ = b.store.Watch(serving, b.retainedPut) }) // returns nil when serving ends
	loops.Go(func() { _ = b.store.WatchClaims(serving, b.seen) })
	loops.Go(func() { b.housekeep(serving) })
	loops.Go(func() { b.buryOwn(serving) })
	loops.Go(func() { b.store.HoldLease(serving, b.fence) })
	loops.Go(func() { b.buryDead(serving) })
	loops.Go(func() { b.answerForwards(serving) })
	if err := b.store.OnTakeOver(b.part); err != nil {
		stop()
		loops.Wait()
		return err
	}
	b.log.Info("broker listens", "address", b.Addr(), "websocket", b.WebsocketAddr())
	if b.lab != nil {
		b.log.Warn("the lab listens: whoever can connect from this machine may publish and read its topics, which are no devices'", "address", b.LabAddr())
	}

	var accepting sync.WaitGroup
	for _, l := range b.listeners {
		accepting.Go(func() { l.run(ctx) })
	}
	accepting.Wait()
	b.stopping.Store(true)
	b.closeAll()
	b.wg.Wait()
	stop()
	loops.Wait()
	return nil
}

// detach takes an ended connection out, and its client offline unless another
// connection has taken over.
func (b *Broker) detach(c *conn, err error) {
	var code packets.Code
	switch {
	case c.reason.Load() == nil && errors.As(err, &code): // mochi could not read a packet
		b.audit(c, topics.RefusedPacket, "malformed", "", err)
		c.because("malformed")
	case errors.Is(err, io.EOF):
		c.because("error") // the client vanished
	case isTimeout(err):
		c.because("keepalive")
	case err == nil:
		c.because("client")
	default:
		c.because("error")
	}
	reason := *c.reason.Load()
	if reason == "slow" {
		b.metrics.slow.Inc()
	}
	if c.client == nil {
		b.metrics.connects.With("refused").Inc()
		b.log.Debug("connection without a session ended", "remote", c.remote, "identity", c.identity.String(), "reason", reason, "err", err)
		return
	}
	b.metrics.disconnects.With(reason).Inc()
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	b.log.Debug("client disconnected", "client", c.client.id, "remote", c.remote, "reason", reason, "err", err)
	b.offline(c, b.presence(c, false, reason))
}

// closeAll says goodbye to every connection.
func (b *Broker) closeAll() {
	for _, c := range b.live(nil) {
		c.disconnect(packets.ErrServerShuttingDown, "shutdown")
	}
}

// live appends every connection to conns.
func (b *Broker) live(conns []*conn) []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		conns = append(conns, c)
	}
	return conns
}

func (b *Broker) counts() (conns, sessions int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns), len(b.clients)
}

// housekeep ends sessions that have expired and connections whose certificate
// is revoked or has run out.
func (b *Broker) housekeep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var room rounds
	for {
		revoked := false
		select {
		case <-ctx.Done():
			return
		case <-b.revoked:
			revoked = true
		case <-tick.C:
		}
		b.housekeeping(time.Now(), revoked, &room)
	}
}

// rounds is room for the rounds of the housekeeping, which would else be most of the
// garbage of a broker that has nothing to do.
type rounds struct {
	conns   []*conn
	clients []*client
}

func (b *Broker) housekeeping(now time.Time, revoked bool, room *rounds) {
	room.conns = b.live(room.conns[:0])
	for _, c := range room.conns {
		b.checkCertificate(c, now, revoked)
	}
	clear(room.conns) // they may go meanwhile
	room.clients = b.expire(now, room.clients[:0])
	clear(room.clients)
	b.forgetParted(now)
	b.told.forget(now)
}

func (b *Broker) checkCertificate(c *conn, now time.Time, revoked bool) {
	var err error
	reason := ""
	switch {
	case c.lab: // it has none
	case now.After(c.cert.NotAfter):
		reason, err = "expired", fmt.Errorf("certificate ran out at %s", c.cert.NotAfter.UTC().Format(time.RFC3339))
	case revoked && b.revocations != nil:
		if err = b.revocations.Check(c.cert); err != nil {
			reason = "revoked"
		}
	}
	if err == nil || c.isClosed() {
		return
	}
	b.audit(c, topics.RefusedSession, reason, "", err)
	c.disconnect(packets.ErrNotAuthorized, reason)
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

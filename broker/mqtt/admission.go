package mqtt

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"
)

// reserve is how many connections above the limit get as far as CONNECT: devices
// to be told why they are turned away, services to be let in. Those above it are
// closed without a word.
const reserve = 64

// spareFiles is how many file descriptors connections leave for the store, for
// other nodes and for operators: without them nothing can be stored.
const spareFiles = 256

// errPace means that a connection would have to wait too long for its handshake.
var errPace = errors.New("too many handshakes are waiting")

// gate counts and paces the connections of all listeners together.
type gate struct {
	pace     *rate.Limiter // of handshakes, which wait
	connects *rate.Limiter // of CONNECTs, which are refused; nil: as many as come

	limit int64        // of connections; set before the first one
	open  atomic.Int64 // connections, handshakes included
	last  atomic.Int64 // the newest connection number
}

func newGate(limits *Limits) *gate {
	g := &gate{pace: bucket(limits.HandshakesPerSecond), limit: int64(limits.MaxConnections)}
	if limits.ConnectsPerSecond > 0 {
		g.connects = bucket(limits.ConnectsPerSecond)
	}
	return g
}

// bucket allows so many per second, and a tenth of a second's worth at once.
func bucket(perSecond int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/10))
}

// fit lowers the limit to what the process may open files for.
func (g *gate) fit(log *slog.Logger) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("ask for the limit of open files: %w", err)
	}
	if files.Cur >= uint64(g.limit+reserve+spareFiles) {
		return nil
	}
	fits := int64(files.Cur) - reserve - spareFiles
	if fits < 1 {
		return fmt.Errorf("the process may open %d files, and needs more than %d for any connection", files.Cur, reserve+spareFiles)
	}
	log.Warn("fewer connections than limits.max_connections are let in: the process may not open more files",
		"connections", fits, "limit", g.limit, "files", files.Cur)
	g.limit = fits
	return nil
}

// enter counts a connection; one that is above the limit is let in only to be
// told so. Who has entered must leave.
func (g *gate) enter() (over, ok bool) {
	n := g.open.Add(1)
	if n > g.limit+reserve {
		g.leave()
		return true, false
	}
	return n > g.limit, true
}

func (g *gate) leave() { g.open.Add(-1) }

// full reports whether there are more connections than may be.
func (g *gate) full() bool { return g.open.Load() > g.limit }

// room asks whether c's CONNECT can be taken now, and answers it if not. Services
// are few, and without them the fleet stands still: they always can. Nor is a
// device above the limit whose new connection replaces an old one. No client is
// at fault here, so this is counted and not audited.
func (b *Broker) room(c *conn) error {
	if c.identity.Kind == topics.PrincipalService {
		return nil
	}
	var code packets.Code
	reason := ""
	switch {
	case c.over && b.gate.full() && !b.connected(c.identity.Name):
		code, reason = packets.ErrQuotaExceeded, "limit"
	case b.gate.connects != nil && !b.gate.connects.Allow():
		code, reason = packets.ErrConnectionRateExceeded, "rate"
	default:
		return nil
	}
	b.metrics.refused.With(string(topics.RefusedConnect), reason).Inc()
	b.turnedAway.warn(b.log, "a device was turned away", "reason", reason, "device", c.identity.Name, "remote", c.remote)
	b.refuseConnect(c, code, 3) // 3.1.1 knows "server unavailable" only
	return code
}

func (b *Broker) connected(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	cl := b.clients[id]
	if cl == nil {
		return false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.conn != nil
}

// nextNumber numbers a connection: nanoseconds since 1970, and more than any
// before, so that numbers also grow over a restart.
func (g *gate) nextNumber() int64 {
	for {
		last := g.last.Load()
		next := max(time.Now().UnixNano(), last+1)
		if g.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

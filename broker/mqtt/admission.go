package mqtt

import (
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// gate counts and paces the connections of all listeners together.
type gate struct {
	limits *Limits
	pace   *rate.Limiter // of handshakes

	open atomic.Int64 // connections, handshakes included
	last atomic.Int64 // the newest connection number
}

func newGate(limits *Limits) *gate {
	return &gate{limits: limits, pace: bucket(limits.HandshakesPerSecond)}
}

// bucket allows so many per second, and a tenth of a second's worth at once.
func bucket(perSecond int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/10))
}

// enter counts a connection, or reports that there are too many. Who has entered
// must leave.
func (g *gate) enter() bool {
	if g.open.Add(1) > int64(g.limits.MaxConnections) {
		g.leave()
		return false
	}
	return true
}

func (g *gate) leave() { g.open.Add(-1) }

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

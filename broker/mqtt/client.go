package mqtt

import (
	"sync"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/certs"

	"github.com/mochi-mqtt/server/v2/packets"
)

// client is a client id with its session, connected or not. The newest
// connection that claims it owns it; what an earlier one still does is without
// effect, because every act asks whether it is the owner.
type client struct {
	id       string
	identity certs.Identity
	plane    *plane

	mu      sync.Mutex // guards what follows
	session *session.Session
	conn    *conn // nil while offline
	begun   bool  // CONNACK of conn was sent
	expiry  time.Duration
	expires time.Time     // while offline
	number  int64         // of the newest connection
	ended   bool          // not in Broker.clients any more
	will    *will         // of the connection, or delayed
	left    cluster.Claim // as the last connection left it
	// unrestored is what there was on another node, while it is not all here yet.
	unrestored *savedSession
	// repeats are QoS 2 messages that came again while the store had not answered, by
	// the token of their receipt.
	repeats map[uint64][]answerFunc
	changes int // of the subscriptions, so far
	cohorts cohorts
	// Of its plane's log: up to where everything was queued; whether what follows is
	// not queued as it comes, and some of it came since the reader looked; and the
	// connection whose reader brings it.
	read   uint64
	behind bool
	missed bool
	reader *conn
	moved  chan struct{} // holds a token when something has left the queue
}

func (cl *client) signalMoved() {
	select {
	case cl.moved <- struct{}{}:
	default:
	}
}

// attach makes c the owner of its client id: the one that was it before is
// disconnected, and the session begins anew if asked to. It fails with
// cluster.ErrTaken when a later connection was faster.
func (b *Broker) attach(c *conn, id string) error {
	if c.moved {
		b.letGo(id, c.number) // what is left of an earlier visit
	}
	var old *conn
	var leases []any
	for {
		b.mu.Lock()
		if b.claims[id].elsewhere > c.number {
			b.mu.Unlock()
			return cluster.ErrTaken
		}
		cl := b.clients[id]
		if cl == nil {
			cl = &client{
				id: id, plane: b.planeOf(c), moved: make(chan struct{}, 1),
				session: session.New(session.Limits{
					Messages: b.cfg.Limits.SessionQueueMessages, Bytes: b.cfg.Limits.SessionQueueBytes,
				}, b.cfg.Limits.Subscriptions),
			}
			b.clients[id] = cl
		}
		b.mu.Unlock()

		// A claim of another node that is heard of from here on finds cl.
		cl.mu.Lock()
		if cl.ended { // expired just now, or taken elsewhere
			cl.mu.Unlock()
			continue
		}
		if cl.number > c.number {
			cl.mu.Unlock()
			return cluster.ErrTaken
		}
		fresh := cl.identity.Name == ""
		c.moved = c.moved || fresh && c.found // or this node was started anew
		old = cl.conn
		if c.params.clean || (old != nil && cl.expiry == 0) {
			b.forget(cl)
			leases = cl.session.Clear()
			cl.cohorts = cohorts{}
			cl.read, cl.behind, cl.unrestored = cl.plane.at.Load(), false, nil
		} else {
			leases = cl.session.Detach()
			if c.moved {
				saved := c.saved
				cl.unrestored = &saved
			}
			c.moved = cl.unrestored != nil // perhaps an earlier connection has not come to it
			c.params.present = !fresh || c.moved
		}
		previous := cl.will
		cl.identity, cl.conn, cl.begun, cl.number = c.identity, c, false, c.number
		cl.expiry, cl.will = c.params.expiry, c.params.will
		cl.session.Attach(c.params.receiveMaximum)
		c.client = cl
		cl.mu.Unlock()

		b.mu.Lock()
		b.conns[c] = struct{}{}
		b.mu.Unlock()
		if old != nil {
			old.disconnect(packets.ErrSessionTakenOver, "taken-over") // [MQTT-3.1.4-3]
		}
		b.giveBack(leases)
		b.settleWill(previous, c.params.clean)
		return b.restore(c)
	}
}

// begin lets messages flow, after CONNACK.
func (b *Broker) begin(c *conn) {
	cl := c.client
	cl.mu.Lock()
	if cl.conn == c {
		cl.begun = true
		b.pump(cl)
		b.readInbox(cl)
	}
	for _, g := range b.memberships(cl) {
		g.join(cl)
	}
	cl.mu.Unlock()
}

// offline ends c's ownership, unless it was taken over. told is whether the
// cluster knows that the device is gone: until it does, the claim says connected,
// so that somebody tells it if this node dies.
func (b *Broker) offline(c *conn, told <-chan error) {
	cl := c.client
	cl.mu.Lock()
	if cl.conn != c {
		cl.mu.Unlock()
		return
	}
	cl.conn, cl.begun, cl.reader = nil, false, nil
	leases := cl.session.Detach()
	saved := b.snapshot(cl)
	now := time.Now()
	cl.expires = now.Add(cl.expiry)
	w := cl.will
	if w != nil {
		w.due = now.Add(min(w.delay, cl.expiry)) // [MQTT-3.1.3-9]
		if w.delay == 0 || cl.expiry == 0 {
			cl.will = nil // now
		}
	}
	pending, expiry := cl.will, cl.expiry
	cl.mu.Unlock()
	b.giveBack(leases)
	if expiry == 0 {
		b.end(cl, now)
	}
	if w != nil && pending == nil {
		_ = b.publishWill(w) // logged
	}
	if <-told == nil {
		b.unclaim(c, expiry, saved, pending)
	}
}

// setExpiry changes how long the session outlives the connection.
func (b *Broker) setExpiry(c *conn, d time.Duration) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == c {
		cl.expiry = d
	}
}

// expire ends the sessions whose time has come, and publishes delayed wills. It
// returns all, appended to clients.
func (b *Broker) expire(now time.Time, clients []*client) []*client {
	b.mu.Lock()
	for _, cl := range b.clients {
		clients = append(clients, cl)
	}
	b.mu.Unlock()
	for _, cl := range clients {
		cl.mu.Lock()
		expired := cl.conn == nil && !now.Before(cl.expires)
		due := cl.conn == nil && cl.will != nil && !now.Before(cl.will.due)
		cl.mu.Unlock()
		switch {
		case expired:
			b.end(cl, now)
		case due:
			b.fireWill(cl, now)
		}
	}
	return clients
}

// end removes a session, if nobody has claimed it meanwhile.
func (b *Broker) end(cl *client, now time.Time) {
	b.mu.Lock()
	cl.mu.Lock()
	if cl.conn != nil || cl.ended || now.Before(cl.expires) {
		cl.mu.Unlock()
		b.mu.Unlock()
		return
	}
	cl.ended = true
	delete(b.clients, cl.id)
	b.forget(cl)
	cl.session.Clear() // offline, so nothing is on loan
	w := cl.will
	cl.will = nil
	cl.mu.Unlock()
	b.mu.Unlock()
	b.settleWill(w, true)
}

// forget takes the client's subscriptions out of the index and out of its
// groups. The caller holds cl.mu.
func (b *Broker) forget(cl *client) {
	for sub := range cl.session.Subscriptions {
		if g := b.sharedGroup(cl, sub.Filter); g != nil {
			g.leave(cl)
			cl.plane.dropIdle(g)
			continue
		}
		cl.plane.remove(cl, sub.Filter)
	}
}

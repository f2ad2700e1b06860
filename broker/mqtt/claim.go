package mqtt

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Between nodes a client id belongs to whom the registry says (cluster.Claim).
// A connection claims its id before its CONNACK; the node that had it lets go,
// because it is asked to or because it sees the claim. Every change of the
// session that must outlive the node is written under the same claim, so that a
// node that has lost a client cannot change it any more.

// claimAttempts is how often a claim is tried when others claim the same id.
const claimAttempts = 50

// savedSession is what a claim holds of a session.
type savedSession struct {
	Subscriptions []session.Subscription `json:"subscriptions"`
	// Inbox is the cursor: up to there the client has everything.
	Inbox uint64 `json:"inbox,omitempty"`
	// QoS2 is what was under way; only of a session without a connection.
	QoS2 session.Handover `json:"qos2,omitzero"`
}

// savedIn reads what a claim holds of a session.
func savedIn(claim cluster.Claim) (saved savedSession, err error) {
	if len(claim.State) == 0 {
		return savedSession{}, nil
	}
	err = json.Unmarshal(claim.State, &saved)
	return saved, err
}

// claiming is a client id that connections of this node are claiming: what other
// nodes claim meanwhile must not be missed, though there is no client yet.
type claiming struct {
	connections int
	elsewhere   int64         // the newest connection on another node that was heard of
	turn        chan struct{} // holds a token while one of them claims
}

// take claims c's client id and attaches c to its session. Connections of one node
// take turns: what the first brings from another node, the second finds here.
func (b *Broker) take(c *conn, id string) error {
	b.mu.Lock()
	p := b.claims[id]
	if p == nil {
		p = &claiming{turn: make(chan struct{}, 1)}
		b.claims[id] = p
	}
	p.connections++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		if p.connections--; p.connections == 0 {
			delete(b.claims, id)
		}
		b.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: another connection is claiming %s", cluster.ErrBusy, clip(id))
	}
	if err := b.claim(c, id); err != nil {
		return err
	}
	err := b.attach(c, id)
	if err != nil && c.client == nil {
		b.pass(c, id)
	}
	return err
}

// claim makes c the owner of its client id in the whole cluster.
func (b *Broker) claim(c *conn, id string) error {
	testament, err := testamentOf(c, c.params.will)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	for range claimAttempts {
		old, err := b.store.Lookup(ctx, id)
		if err != nil && !errors.Is(err, cluster.ErrNotFound) {
			return err
		}
		found := err == nil && (old.Connected && old.Outlives || time.Now().Before(old.Expires))
		// Whatever the clocks of the nodes say, a later claim has a higher number.
		c.number = max(c.number, old.Connection+1)
		mine := cluster.Claim{Node: b.cfg.Node, Connection: c.number, Connected: true, Outlives: c.params.expiry > 0, Testament: testament, Revision: old.Revision}
		if mine.Flaps, mine.FlapsAt = b.flaps(old, time.Now()); mine.Flaps > flapBurst && old.Connected {
			return fmt.Errorf("%w: %s", errFlapping, clip(id))
		}
		c.saved = savedSession{}
		if found && !c.params.clean {
			if c.saved, err = savedIn(old); err != nil {
				return fmt.Errorf("session of %s: %w", clip(id), err)
			}
			if mine.State, err = stateOf(c.saved); err != nil {
				return err
			}
			if old.Connected {
				c.saved.QoS2 = session.Handover{} // of an earlier connection, if an older version has left it
			}
		}
		mine.Revision, err = b.store.Write(ctx, id, mine)
		if errors.Is(err, cluster.ErrTaken) {
			continue
		}
		if err != nil {
			return err
		}
		if old.Connected && b.orphaned(ctx, id, old, c) {
			b.inheritWill(ctx, old, c.params.clean)
		}
		c.claimed, c.found = mine, found && !c.params.clean
		c.moved = c.found && old.Node != b.cfg.Node
		return nil
	}
	return fmt.Errorf("%w: %d others claimed %s", cluster.ErrBusy, claimAttempts, clip(id))
}

// stateOf is the state of a claim whose client is connected.
func stateOf(saved savedSession) ([]byte, error) {
	saved.QoS2 = session.Handover{}
	return json.Marshal(saved)
}

// orphaned makes the node that had a client let go of it, and hand over its session
// to c. It reports whether there is none: it has died, and what its claim says is to
// be done.
func (b *Broker) orphaned(ctx context.Context, id string, old cluster.Claim, c *conn) bool {
	if old.Node != b.cfg.Node {
		state, gone := b.store.TakeOver(ctx, old.Node, id, c.number, old.Connection)
		if saved, err := savedIn(cluster.Claim{State: state}); err == nil && len(state) > 0 && !c.params.clean {
			c.saved = saved
		}
		return gone
	}
	b.mu.Lock()
	cl := b.clients[id]
	b.mu.Unlock()
	if cl == nil {
		return true // of an earlier run
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.number < old.Connection
}

// errFlapping means that connections have taken a client id from one another too
// often of late: two devices with one identity, perhaps. Who has it keeps it.
var errFlapping = errors.New("too many connections have replaced one another")

// flapBurst is how often a live connection may be replaced at once.
const flapBurst = 20

// flaps is how often a live connection was replaced of late, with the one that
// would be now.
func (b *Broker) flaps(old cluster.Claim, now time.Time) (float64, time.Time) {
	forgotten := max(now.Sub(old.FlapsAt).Minutes(), 0) * float64(b.cfg.Limits.TakeoversPerMinute)
	flaps := max(old.Flaps-forgotten, 0)
	if old.Connected {
		flaps++
	}
	return flaps, now
}

// restore fills the session of a client that another node had. The caller is the
// connection's own goroutine, before CONNACK.
func (b *Broker) restore(c *conn) error {
	cl := c.client
	cl.mu.Lock()
	if !c.moved || cl.conn != c || cl.unrestored == nil {
		cl.mu.Unlock()
		return nil
	}
	saved := *cl.unrestored
	cl.mu.Unlock()
	if err := b.fit(cl.plane, &saved); err != nil {
		return err
	}
	cl.mu.Lock()
	if cl.conn != c { // let go meanwhile, as it came
		cl.mu.Unlock()
		return nil
	}
	cl.session.Resume(saved.QoS2, uint16(rand.Uint32()))
	cl.read, cl.behind = saved.Inbox, true
	cl.mu.Unlock()
	for _, sub := range saved.Subscriptions {
		// What it may subscribe to may have changed meanwhile.
		_, code, text := b.subscribeOne(c, sub, true)
		if code == codeNotNow { // the session is not to lose it for that
			return fmt.Errorf("session of %s: filter %q: %w: %s", clip(cl.id), clip(sub.Filter), cluster.ErrUnavailable, text)
		}
		if code.Code >= packets.ErrUnspecifiedError.Code {
			b.log.Info("subscription of a session from another node ended", "client", cl.id, "filter", clip(sub.Filter), "reason", text)
		}
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == c { // else another connection has to do it again
		cl.unrestored = nil
	}
	c.saved = savedSession{}
	return nil
}

// fit cuts off what a session remembers of a log beyond its end: the log has lost
// that, and its places go to other messages.
func (b *Broker) fit(p *plane, saved *savedSession) error {
	if saved.Inbox <= p.at.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	last, err := p.log.Last(ctx)
	if err != nil || saved.Inbox <= last {
		return err
	}
	// It may only not have got so far yet.
	if last, err = p.log.End(ctx); err != nil || saved.Inbox <= last {
		return err
	}
	b.log.Warn("a session is ahead of what is stored, which has lost its end", "had", saved.Inbox, "end", last)
	saved.Inbox = last
	saved.Subscriptions = slices.Clone(saved.Subscriptions)
	for i := range saved.Subscriptions {
		saved.Subscriptions[i].Since = min(saved.Subscriptions[i].Since, last)
	}
	saved.QoS2.Cut(last)
	return nil
}

// catchUp sends what is retained for the subscriptions of a session that another
// node had: nobody here knows what it has got.
func (b *Broker) catchUp(c *conn) {
	if !c.moved || c.client.plane.open {
		return
	}
	c.client.mu.Lock()
	subs := slices.Collect(c.client.session.Subscriptions)
	c.client.mu.Unlock()
	for _, sub := range subs {
		b.sendRetained(c, grant{Subscription: sub})
	}
}

// snapshot is what a claim is to hold of a session. The caller holds cl.mu.
func (b *Broker) snapshot(cl *client) savedSession {
	if cl.unrestored != nil {
		return *cl.unrestored // nothing has happened to it here
	}
	subs := slices.Collect(cl.session.Subscriptions)
	slices.SortFunc(subs, func(x, y session.Subscription) int { return cmp.Compare(x.Filter, y.Filter) })
	return savedSession{Subscriptions: subs, Inbox: b.cursor(cl)}
}

// save writes the subscriptions of a session that outlives its connection, if
// they have changed. After an error the connection must end: the client would
// rely on what the cluster does not know.
func (b *Broker) save(c *conn) error {
	cl := c.client
	cl.mu.Lock()
	keep := cl.conn == c && cl.expiry > 0
	saved := b.snapshot(cl)
	cl.mu.Unlock()
	if !keep {
		return nil
	}
	if before, err := savedIn(c.claimed); err == nil && slices.Equal(before.Subscriptions, saved.Subscriptions) {
		return nil
	}
	return b.write(c, c.claimed, saved)
}

// write replaces c's claim.
func (b *Broker) write(c *conn, next cluster.Claim, saved savedSession) (err error) {
	if next.State, err = json.Marshal(saved); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	if next.Revision, err = b.store.Write(ctx, c.client.id, next); err != nil {
		return err
	}
	c.claimed = next
	return nil
}

// saveOrEnd is save; a connection whose session cannot be saved is ended.
func (b *Broker) saveOrEnd(c *conn) bool {
	err := b.save(c)
	switch {
	case err == nil:
		return true
	case errors.Is(err, cluster.ErrTaken):
		b.letGo(c.client.id, c.number+1)
	default:
		b.notStored.warn(b.log, "a session was not stored, its client has to come again", "client", c.client.id, "err", err)
		c.disconnect(codeBusy, "error")
	}
	return false
}

// unclaim says that the client is not connected any more. The claim stays while
// the session does, with the will that is still to come.
func (b *Broker) unclaim(c *conn, expiry time.Duration, saved savedSession, pending *will) {
	if c.claimed.Revision == 0 {
		return
	}
	next := c.claimed
	next.Connected, next.Expires, next.Testament = false, time.Now().Add(expiry), nil
	if pending != nil {
		var err error
		if next.Testament, err = testamentOf(c, pending); err != nil {
			b.log.Error("a will cannot be encoded", "client", c.client.id, "err", err)
		}
	}
	if expiry == 0 {
		saved = savedSession{}
	} else if b.whole(c.client) {
		saved.QoS2 = b.handover(c.client)
	}
	if err := b.write(c, next, saved); err != nil && !errors.Is(err, cluster.ErrTaken) {
		// Whoever claims it next asks this node, which has nothing any more.
		b.notStored.warn(b.log, "the end of a connection was not stored", "client", c.client.id, "err", err)
		return
	}
	c.client.mu.Lock()
	defer c.client.mu.Unlock()
	c.client.left = c.claimed
}

// seen is called for every claim that was written on any node.
func (b *Broker) seen(id string, claim cluster.Claim) {
	if claim.Node != b.cfg.Node {
		b.letGo(id, claim.Connection)
		return
	}
	if claim.Connected {
		return
	}
	// Either this node has written so, when the connection was gone; or another
	// has taken this node for dead, and everybody takes the client for lost.
	b.mu.Lock()
	cl := b.clients[id]
	b.mu.Unlock()
	if cl == nil {
		return
	}
	cl.mu.Lock()
	c := cl.conn
	mine := c != nil && cl.number == claim.Connection
	cl.mu.Unlock()
	if mine {
		c.disconnect(codeBusy, "taken-for-dead")
	}
}

// letGo ends what this node has of a client that a later connection, on another
// node, has claimed. Its session has moved there.
func (b *Broker) letGo(id string, connection int64) {
	b.mu.Lock()
	if p := b.claims[id]; p != nil {
		p.elsewhere = max(p.elsewhere, connection)
	}
	cl := b.clients[id]
	if cl == nil {
		b.mu.Unlock()
		return
	}
	cl.mu.Lock()
	if cl.ended || cl.number >= connection {
		cl.mu.Unlock()
		b.mu.Unlock()
		return
	}
	cl.ended = true
	delete(b.clients, cl.id)
	old, w := cl.conn, cl.will
	cl.conn, cl.begun, cl.will = nil, false, nil
	b.leave(cl)
	b.forget(cl)
	leases := cl.session.Detach()
	cl.mu.Unlock()
	b.mu.Unlock()
	if old != nil {
		old.disconnect(packets.ErrSessionTakenOver, "taken-over") // [MQTT-3.1.4-3]
	}
	b.giveBack(leases)
	b.settleWill(w, false)
}

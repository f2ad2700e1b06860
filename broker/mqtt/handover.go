package mqtt

import (
	"encoding/json"
	"time"

	"groundswell/broker/session"
)

// A session that moves to another node takes with it what is under way of QoS 2
// (session.Handover): of a client that was connected, the node that had it says so
// when it lets go; of one that was not, the claim does. After a node was killed
// nobody knows. What a claim says counts only until the next connection: later it
// would be out of date.

// settling bounds the wait for the store's answers about the client's own messages,
// which a handover should not leave open.
const settling = time.Second

// keepParted is for how long a node remembers a session that it has let go.
const keepParted = time.Minute

// parted is a session that this node has let go, because it saw the claim of
// another node, which may still ask; or one that was on its way here when that came.
type parted struct {
	connection int64 // the last that had it here
	saved      savedSession
	client     *client // what is under way of it; nil: that is in saved
	until      time.Time
}

// leave keeps what there is of a client that is being let go. The caller holds b.mu
// and cl.mu, and nothing reaches the client any more.
func (b *Broker) leave(cl *client) {
	p := parted{connection: cl.number, client: cl, until: time.Now().Add(keepParted)}
	if p.saved = b.snapshot(cl); cl.unrestored != nil {
		p.client = nil
	}
	b.parted[cl.id] = p
}

// whole reports whether all that there was of a session on another node is here.
func (b *Broker) whole(cl *client) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.unrestored == nil
}

// pass keeps a session that came from another node and did not arrive, for the one
// that has claimed it since.
func (b *Broker) pass(c *conn, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parted[id] = parted{connection: c.number, saved: c.saved, until: time.Now().Add(keepParted)}
}

// handover returns what is under way of QoS 2. It waits until the client's own
// messages are stored, or refused, but not for ever.
func (b *Broker) handover(cl *client) session.Handover {
	for deadline := time.Now().Add(settling); ; {
		cl.mu.Lock()
		h, pending := cl.session.Handover(), cl.session.Pending()
		cl.mu.Unlock()
		if !pending || time.Now().After(deadline) {
			return h
		}
		time.Sleep(5 * time.Millisecond) // the store answers by itself
	}
}

// part lets go of a client that connection, on another node, has claimed, and
// returns what its session is, as savedSession; nil if nothing is known of it, or
// if it is not the session of the connection that was replaced.
func (b *Broker) part(id string, connection, replaced int64) []byte {
	b.letGo(id, connection)
	p, ok := b.lastOf(id, replaced)
	if !ok {
		return nil
	}
	if p.client != nil {
		p.saved.QoS2 = b.handover(p.client)
	}
	state, err := json.Marshal(p.saved)
	if err != nil {
		b.log.Error("a session cannot be handed over", "client", clip(id), "err", err)
		return nil
	}
	return state
}

// lastOf takes out what there was of a client here. A connection that is about to
// take it is waited for, but not for ever.
func (b *Broker) lastOf(id string, connection int64) (p parted, ok bool) {
	for deadline := time.Now().Add(settling); ; {
		b.mu.Lock()
		p, ok = b.parted[id]
		if ok = ok && p.connection == connection; ok {
			delete(b.parted, id)
		}
		claiming := b.claims[id] != nil
		b.mu.Unlock()
		if ok || !claiming || time.Now().After(deadline) {
			return p, ok
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// forgetParted forgets those that nobody has asked for.
func (b *Broker) forgetParted(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, p := range b.parted {
		if now.After(p.until) {
			delete(b.parted, id)
		}
	}
}

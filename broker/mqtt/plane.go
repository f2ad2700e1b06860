package mqtt

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
)

// plane is a world of topics: that of the fleet, or that of the lab. Its clients, its
// subscriptions and its messages know nothing of the other.
type plane struct {
	log  *cluster.Log
	open bool // any topic, and no access rules

	// Of the log: up to where this node has looked for subscribers, and up to where
	// they have what they found.
	seen, at atomic.Uint64

	mu    sync.RWMutex // guards index, and seen against it
	index session.Index[*client]

	groupsMu sync.Mutex        // guards groups; only a group's own is locked under it
	groups   map[string]*group // of open topics, by filter

	keepingMu sync.Mutex                 // guards keeping
	keeping   map[chan struct{}]struct{} // messages of this node that are being stored and then kept
}

func newPlane(log *cluster.Log, open bool) *plane {
	p := &plane{log: log, open: open, groups: map[string]*group{}, keeping: map[chan struct{}]struct{}{}}
	p.seen.Store(log.AtOpen())
	p.at.Store(log.AtOpen())
	return p
}

// match returns who is subscribed to a message's topic.
func (p *plane) match(m session.Message) []session.Hit[*client] {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.index.Match(m.Topic, m.Sequence)
}

// next is match for the next message of the log. Who subscribes from now on has come
// too late for it.
func (p *plane) next(m session.Message) []session.Hit[*client] {
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.seen.Store(m.Sequence)
	return p.index.Match(m.Topic, m.Sequence)
}

// each hands a message, as each of its subscribers is to get it, to give.
func each(hits []session.Hit[*client], m session.Message, origin string, give func(*client, session.Message)) {
	for _, h := range hits {
		if h.NoLocal && h.Subscriber.id == origin {
			continue // [MQTT-3.8.3-3]
		}
		out := m
		out.QoS = min(m.QoS, h.QoS)
		out.Retain = m.Retain && h.RetainAsPublished // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
		out.Identifiers = h.Identifiers
		give(h.Subscriber, out)
	}
}

// add enters a subscription into the client's session and into the index. last is a
// sequence that the log has reached: of an open topic, messages up to there were
// published before. asOf is the place in the log from which on messages arrive. The
// caller holds cl.mu.
func (p *plane) add(cl *client, sub session.Subscription, last uint64, restored bool) (existed bool, asOf uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asOf = max(last, p.seen.Load())
	if old, found := cl.session.Subscription(sub.Filter); found {
		sub.Since = old.Since
	} else if p.open && !restored {
		sub.Since = asOf
	}
	if existed, err = cl.session.Subscribe(sub); err == nil && !isShared(sub.Filter) {
		p.index.Add(cl, sub)
	}
	return existed, asOf, err
}

func (p *plane) remove(cl *client, filter string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index.Remove(cl, filter)
}

// beginKeeping says that a message is about to be stored and then retained; done must
// be called when both have happened, or failed.
func (p *plane) beginKeeping() (done func()) {
	kept := make(chan struct{})
	p.keepingMu.Lock()
	defer p.keepingMu.Unlock()
	p.keeping[kept] = struct{}{}
	return func() {
		p.keepingMu.Lock()
		defer p.keepingMu.Unlock()
		delete(p.keeping, kept)
		close(kept)
	}
}

// awaitKept waits for all that is being kept now, by this node: of what another node is
// keeping, a subscription that is made in that moment may miss the last message.
func (p *plane) awaitKept(ctx context.Context) {
	p.keepingMu.Lock()
	underway := slices.Collect(maps.Keys(p.keeping))
	p.keepingMu.Unlock()
	for _, kept := range underway {
		select {
		case <-kept:
		case <-ctx.Done():
			return
		}
	}
}

// planes are those that there are.
func (b *Broker) planes() []*plane {
	return slices.DeleteFunc([]*plane{b.fleet, b.lab}, func(p *plane) bool { return p == nil })
}

// follow hands on what is stored in the logs of the planes.
func (b *Broker) follow(ctx context.Context, loops *sync.WaitGroup) {
	b.fleet = newPlane(b.store.Inbox(), false)
	if log := b.store.OpenTopics(); log != nil {
		b.lab = newPlane(log, true)
	}
	for _, p := range b.planes() {
		loops.Go(func() { p.log.Follow(ctx, func(m cluster.Message) { b.arrived(p, m) }) })
	}
}

package mqtt

import (
	"context"
	"slices"
	"sync"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"
)

const (
	// refusedDelay is how long a message rests that a member has refused.
	refusedDelay = time.Second
	// tooLargeDelay is how long one rests that no member's packets can hold.
	tooLargeDelay = 30 * time.Second
	// keepEvery is how often held messages are renewed.
	keepEvery = cluster.AckWait / 3
	// maxFetch is how many messages are asked for at once.
	maxFetch = 512
	// gather is how long a group waits for more of its members' windows to be
	// free before it asks for a few messages only.
	gather = 3 * time.Millisecond
)

// group brings the messages of a declared consumer group to those of its
// members that are connected here.
type group struct {
	broker *Broker
	stored *cluster.Group
	filter string // "$share/<name>/<topic filter>"

	// Of one that is not declared: how to stop it, and how many clients are about to
	// be members, guarded by plane.groupsMu.
	stop    context.CancelFunc
	joining int

	mu      sync.Mutex // guards what follows; nothing else is locked under it
	members []*client
	next    int // whose turn it is
	held    map[*lease]struct{}
	changed chan struct{} // closed when a member may have got room
	waiting int           // who may wait on changed
}

// lease is a message that a member holds.
type lease struct {
	*cluster.Delivery
	message session.Message
	group   *group
	since   time.Time
}

type outcome string

const (
	outcomeDone     outcome = "done"
	outcomeRefused  outcome = "refused"           // the member said no
	outcomeReturned outcome = "returned"          // the member went, or there was none
	outcomeTooLarge outcome = "larger-than-taken" // by the member's Maximum Packet Size
)

func newGroup(b *Broker, g *cluster.Group, filter string) *group {
	return &group{broker: b, stored: g, filter: filter, changed: make(chan struct{}), held: map[*lease]struct{}{}}
}

// sharedGroup is the group that a filter subscribes to, nil if it is not a
// shared one.
func (b *Broker) sharedGroup(cl *client, filter string) *group {
	name, _, shared, err := topics.ParseShare(filter)
	switch {
	case err != nil || !shared:
		return nil
	case cl.plane.open:
		return b.openGroup(filter)
	}
	return b.groups[name]
}

// memberships are the groups that the client is in. The caller holds cl.mu.
func (b *Broker) memberships(cl *client) []*group {
	var groups []*group
	for sub := range cl.session.Subscriptions {
		if g := b.sharedGroup(cl, sub.Filter); g != nil {
			groups = append(groups, g)
		}
	}
	return groups
}

// join makes a client a member, once.
func (g *group) join(cl *client) {
	g.mu.Lock()
	found := false
	for _, m := range g.members {
		found = found || m == cl
	}
	if !found {
		g.members = append(g.members, cl)
	}
	g.mu.Unlock()
	g.poke()
}

func (g *group) leave(cl *client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var rest []*client
	for _, m := range g.members {
		if m != cl {
			rest = append(rest, m)
		}
	}
	g.members = rest
}

func (g *group) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members) == 0
}

// poke says that somebody may have room.
func (g *group) poke() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting > 0 {
		close(g.changed)
		g.changed, g.waiting = make(chan struct{}), 0
	}
}

// turn returns the members, beginning with the one whose turn it is.
func (g *group) turn() []*client {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.members)
	if n == 0 {
		return nil
	}
	g.next = (g.next + 1) % n
	order := make([]*client, 0, n)
	order = append(order, g.members[g.next:]...)
	return append(order, g.members[:g.next]...)
}

// run starts the loops of the group.
func (g *group) run(ctx context.Context, loops *sync.WaitGroup) {
	for shard := range g.stored.Shards() {
		loops.Go(func() { g.fetch(ctx, shard) })
	}
	loops.Go(func() { g.keep(ctx) })
}

// fetch asks for messages of a shard whenever members have room for them.
func (g *group) fetch(ctx context.Context, shard int) {
	for {
		n := g.room(ctx)
		if ctx.Err() != nil {
			return
		}
		// The shards share the windows; what comes on top of them goes back.
		n = max(1, min(n/g.stored.Shards(), maxFetch))
		if err := g.stored.Fetch(ctx, shard, n, g.deliver); err != nil && ctx.Err() == nil {
			g.broker.log.Error("cannot fetch for a group, trying again", "group", g.stored.Name, "shard", shard, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// room waits until members could take messages and returns how many.
func (g *group) room(ctx context.Context) int {
	for {
		g.mu.Lock()
		g.waiting++
		changed := g.changed
		g.mu.Unlock()
		free, window := g.free()
		if free > 0 && free < window/4 {
			// Under load windows open one by one. A moment later there are more.
			select {
			case <-ctx.Done():
			case <-time.After(gather):
			}
			free, _ = g.free()
		}
		if free > 0 {
			return free
		}
		select {
		case <-ctx.Done():
			return 0
		case <-changed:
		}
	}
}

// free is how many messages the members could take, of how many at most.
func (g *group) free() (free, window int) {
	g.mu.Lock()
	members := slices.Clone(g.members)
	g.mu.Unlock()
	for _, cl := range members {
		cl.mu.Lock()
		if cl.conn != nil && cl.begun {
			f := cl.session.Free()
			free += f
			window += f + cl.session.InFlight()
		}
		cl.mu.Unlock()
	}
	return free, window
}

// deliver lends a message to a member that can take it.
func (g *group) deliver(d *cluster.Delivery) {
	m, err := g.read(d)
	if err != nil {
		g.broker.log.Error("a stored message cannot be read and is set aside", "group", g.stored.Name, "err", err)
		_ = d.Done() // it would fail for ever
		return
	}
	l := &lease{Delivery: d, message: m, group: g, since: time.Now()}
	g.mu.Lock()
	g.held[l] = struct{}{}
	g.mu.Unlock()
	for _, cl := range g.turn() {
		if g.lend(cl, l) {
			return
		}
	}
	g.broker.settleLease(l, outcomeReturned)
}

// read is the message that is delivered.
func (g *group) read(d *cluster.Delivery) (session.Message, error) {
	if d.Open == nil {
		return uplinkMessage(d.Uplink, d.Stored), nil
	}
	m, err := fromStore(*d.Open)
	m.Sequence, m.Retain = 0, false // the lease says where it is; a group gets what is new
	return m, err
}

func (g *group) lend(cl *client, l *lease) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == nil || !cl.begun || cl.session.Free() == 0 {
		return false
	}
	sub, ok := cl.session.Subscription(g.filter)
	if !ok {
		return false
	}
	m := l.message
	m.QoS = min(m.QoS, sub.QoS)
	m.Lease = l
	if sub.Identifier > 0 {
		m.Identifiers = []int{sub.Identifier}
	}
	if _, err := cl.session.Deliver(m); err != nil {
		return false
	}
	g.broker.pump(cl)
	return true
}

// settleLease ends a loan.
func (b *Broker) settleLease(handle any, o outcome) {
	l := handle.(*lease) // nothing else is ever on loan
	l.group.mu.Lock()
	delete(l.group.held, l)
	l.group.mu.Unlock()
	var err error
	switch o {
	case outcomeDone:
		err = l.Done()
	case outcomeRefused:
		err = l.Return(refusedDelay)
	case outcomeTooLarge:
		b.log.Error("a report is larger than a group's member takes", "group", l.group.stored.Name,
			"topic", clip(l.message.Topic), "bytes", len(l.message.Payload))
		err = l.Return(tooLargeDelay)
	default:
		err = l.Return(0)
	}
	b.metrics.group.With(l.group.stored.Name, string(o)).Inc()
	if err != nil {
		// The store hands it out again when its patience ends; members are
		// used to repetitions.
		b.log.Warn("cannot tell the store about a delivery", "group", l.group.stored.Name, "err", err)
	}
	l.group.poke()
}

// giveBack returns the loans of a connection that has ended.
func (b *Broker) giveBack(leases []any) {
	for _, l := range leases {
		b.settleLease(l, outcomeReturned)
	}
}

// keep renews what members hold for long, until ctx ends.
func (g *group) keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			g.mu.Lock()
			var old []*lease
			for l := range g.held {
				if now.Sub(l.since) >= keepEvery {
					old = append(old, l)
				}
			}
			g.mu.Unlock()
			for _, l := range old {
				_ = l.Keep() // at worst it is handed out again
			}
		}
	}
}

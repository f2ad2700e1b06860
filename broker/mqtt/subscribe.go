package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// maxFilters is how many filters a SUBSCRIBE may carry.
const maxFilters = 256

// storeWait bounds what a subscription waits for the store.
const storeWait = 5 * time.Second

// subscribe handles a SUBSCRIBE packet: decides about each filter, registers
// it, answers, and then delivers what is retained. Registering comes before
// reading, so that nothing falls between; what is older than what went out
// live is dropped by the session.
func (b *Broker) subscribe(c *conn, pk *packets.Packet) packets.Code {
	if code := pk.SubscribeValidate(); code.Code >= packets.ErrUnspecifiedError.Code {
		return code
	}
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: pk.PacketID}
	var granted []grant // those whose retained messages are due
	for i, f := range pk.Filters {
		if f.NoLocal && isShared(f.Filter) {
			return packets.ErrProtocolViolationInvalidSharedNoLocal // [MQTT-3.8.3-4]
		}
		sub := session.Subscription{
			Filter: f.Filter, QoS: f.Qos, NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished,
			RetainHandling: session.RetainHandling(f.RetainHandling), Identifier: f.Identifier,
		}
		code, text := packets.ErrQuotaExceeded, "too many filters in one packet"
		g := grant{Subscription: sub}
		if i < maxFilters {
			g, code, text = b.subscribeOne(c, sub, false)
		}
		if code.Code >= packets.ErrUnspecifiedError.Code {
			if ack.Properties.ReasonString == "" {
				ack.Properties.ReasonString = text
			}
			if !c.v5 {
				code = packets.ErrUnspecifiedError // the only failure that 3.1.1 knows
			}
		} else if sub.RetainHandling == session.RetainSend || (sub.RetainHandling == session.RetainSendIfNew && !g.existed) {
			granted = append(granted, g)
		}
		ack.ReasonCodes = append(ack.ReasonCodes, code.Code)
	}
	if !b.saveOrEnd(c) {
		return packets.CodeSuccess
	}
	if err := c.send(ack); err != nil {
		return packets.CodeSuccess // the connection is ending
	}
	for _, g := range granted {
		b.sendRetained(c, g)
	}
	return packets.CodeSuccess
}

// grant is a subscription that was registered.
type grant struct {
	session.Subscription
	existed bool
	// asOf is the place in the plane's log from which on messages arrive.
	asOf uint64
}

// subscribeOne decides about a filter and registers it. The code is the granted
// QoS or the refusal, with its text. restored says that the subscription comes from
// where the session was before.
func (b *Broker) subscribeOne(c *conn, sub session.Subscription, restored bool) (g grant, code packets.Code, text string) {
	refuse := func(code packets.Code, reason string, err error) (grant, packets.Code, string) {
		b.audit(c, topics.RefusedSubscribe, reason, sub.Filter, err)
		return grant{}, code, err.Error()
	}
	if sub.RetainHandling > session.RetainIgnore {
		return refuse(packets.ErrImplementationSpecificError, "malformed", errors.New("unknown retain handling"))
	}
	if err := topics.CheckFilter(sub.Filter); err != nil {
		return refuse(packets.ErrTopicFilterInvalid, "filter", err)
	}
	if c.client.plane.open {
		return b.subscribeOpen(c, sub, restored, refuse)
	}
	inCohort, err := b.cohortsOf(c, sub.Filter)
	if err != nil {
		b.log.Error("cannot read the assignment that decides about a subscription", "client", c.client.id, "err", err)
		return grant{}, codeNotNow, "the assignment cannot be read, try again later"
	}
	if err := topics.Decide(c.identity.Principal(), topics.Subscribe, sub.Filter, inCohort); err != nil {
		return refuse(packets.ErrNotAuthorized, "not-authorized", err)
	}
	name, inner, shared, err := topics.ParseShare(sub.Filter)
	if err != nil {
		return refuse(packets.ErrTopicFilterInvalid, "filter", err)
	}
	if shared {
		switch {
		case b.groups[name] == nil:
			return refuse(packets.ErrNotAuthorized, "group", fmt.Errorf("group %q is not declared in the broker's configuration", clip(name)))
		case inner != topics.Uplink:
			return refuse(packets.ErrTopicFilterInvalid, "group", fmt.Errorf("group %q is declared for %s", name, topics.Uplink))
		case sub.QoS == 0:
			return refuse(packets.ErrImplementationSpecificError, "group", fmt.Errorf("group %q needs QoS 1: it acknowledges", name))
		}
	}
	if g, err = b.register(c, sub, 0, restored); err != nil {
		return refuse(packets.ErrQuotaExceeded, "quota", errTooManySubscriptions)
	}
	return g, packets.Code{Code: sub.QoS}, ""
}

var errTooManySubscriptions = errors.New("the session holds too many subscriptions")

// register enters a subscription into the session and where messages look. last is
// as in plane.add. The only error is session.ErrTooMany.
func (b *Broker) register(c *conn, sub session.Subscription, last uint64, restored bool) (g grant, err error) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	g.Subscription = sub
	if cl.conn != c {
		return g, nil // taken over: the answer goes nowhere
	}
	if g.existed, g.asOf, err = cl.plane.add(cl, sub, last, restored); err != nil {
		return g, err
	}
	cl.changes++
	if shared := b.sharedGroup(cl, sub.Filter); shared != nil {
		shared.join(cl)
	}
	return g, nil
}

// unsubscribe handles an UNSUBSCRIBE packet.
func (b *Broker) unsubscribe(c *conn, pk *packets.Packet) packets.Code {
	if code := pk.UnsubscribeValidate(); code.Code >= packets.ErrUnspecifiedError.Code {
		return code
	}
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, PacketID: pk.PacketID}
	for _, f := range pk.Filters {
		code := packets.CodeSuccess
		if !b.deregister(c, f.Filter) {
			code = packets.CodeNoSubscriptionExisted
		}
		ack.ReasonCodes = append(ack.ReasonCodes, code.Code)
	}
	if b.saveOrEnd(c) {
		_ = c.send(ack) // a closed connection gets no answer
	}
	return packets.CodeSuccess
}

func (b *Broker) deregister(c *conn, filter string) bool {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.conn == c && b.remove(cl, filter)
}

// remove takes a subscription out. The caller holds cl.mu.
func (b *Broker) remove(cl *client, filter string) bool {
	if !cl.session.Unsubscribe(filter) {
		return false
	}
	if g := b.sharedGroup(cl, filter); g != nil {
		g.leave(cl)
		cl.plane.dropIdle(g)
		return true
	}
	cl.plane.remove(cl, filter)
	return true
}

// sendRetained delivers what is retained for a new subscription.
func (b *Broker) sendRetained(c *conn, g grant) {
	sub := g.Subscription
	if c.client.plane.open {
		b.sendKept(c, g)
		return
	}
	if name, err := topics.Parse(sub.Filter); err == nil {
		if name.Kind.Retained() {
			b.sendRetainedOne(c, sub, name)
		}
		return
	}
	if !isShared(sub.Filter) { // [MQTT-4.8.2]: shared subscriptions get none
		b.wg.Go(func() { b.sendRetainedAll(c, sub) })
	}
}

func (b *Broker) sendRetainedOne(c *conn, sub session.Subscription, name topics.Name) {
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	r, err := b.store.Get(ctx, name)
	if errors.Is(err, cluster.ErrNotFound) || (err == nil && len(r.Payload) == 0) {
		return
	}
	if err != nil {
		// The client believes that nothing is retained. It must not: it gets
		// another chance.
		b.log.Error("cannot read a retained message, the subscriber has to come again", "topic", name.String(), "client", c.client.id, "err", err)
		c.disconnect(packets.ErrServerBusy, "error")
		return
	}
	b.deliverStored(c.client, sub, r)
}

// deliverStored queues a retained message that was read for a subscription,
// unless the subscription has ended since: a device that leaves a cohort while
// its manifest is being read gets it no more.
func (b *Broker) deliverStored(cl *client, sub session.Subscription, r cluster.Retained) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if _, ok := cl.session.Subscription(sub.Filter); ok {
		_ = b.queue(cl, retainedFor(r, sub, true)) // as in retainedPut
	}
}

// sendRetainedAll reads the retained messages of a filter with wildcards, no
// faster than the client takes them.
func (b *Broker) sendRetainedAll(c *conn, sub session.Subscription) {
	cl := c.client
	cl.mu.Lock()
	cl.session.BeginScan()
	cl.mu.Unlock()
	defer func() {
		cl.mu.Lock()
		cl.session.EndScan()
		cl.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(b.life)
	defer cancel()
	err := b.store.Scan(ctx, sub.Filter, func(r cluster.Retained) bool {
		if !b.waitForRoom(c) {
			return false
		}
		if len(r.Payload) > 0 {
			b.deliverStored(cl, sub, r)
		}
		return true
	})
	if err != nil && !c.isClosed() {
		b.log.Error("cannot read the retained messages, the subscriber has to come again", "filter", clip(sub.Filter), "client", cl.id, "err", err)
		c.disconnect(packets.ErrServerBusy, "error")
	}
}

// scanAhead is how many messages a scan queues before the client has taken
// some.
const scanAhead = 128

// waitForRoom waits until the client's queue is short; false means that c is
// not the client's connection any more.
func (b *Broker) waitForRoom(c *conn) bool {
	cl := c.client
	for {
		cl.mu.Lock()
		mine, room := cl.conn == c, cl.session.Waiting() < min(scanAhead, b.cfg.Limits.SessionQueueMessages)
		cl.mu.Unlock()
		if !mine || c.isClosed() {
			return false
		}
		if room {
			cl.signalMoved() // another scan may wait, too
			return true
		}
		select {
		case <-c.done:
			return false
		case <-cl.moved:
		}
	}
}

func isShared(filter string) bool { return strings.HasPrefix(filter, "$share/") }

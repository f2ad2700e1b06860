package mqtt

import (
	"errors"
	"strconv"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// route hands a message to everybody who is subscribed to its topic, on this
// node. Who has no room does not get it, and is counted.
func (b *Broker) route(m session.Message, origin string) {
	each(b.fleet.match(m), m, origin, b.deliver)
}

// deliver is queue for a caller that does not hold cl.mu.
func (b *Broker) deliver(cl *client, m session.Message) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	_ = b.queue(cl, m) // counted
}

// queue queues a message for one client and sends what may be sent. The caller
// holds cl.mu.
func (b *Broker) queue(cl *client, m session.Message) error {
	if cl.ended {
		return nil
	}
	if _, err := cl.session.Deliver(m); err != nil {
		b.metrics.dropped.With("queue-full").Inc()
		return err
	}
	b.pump(cl)
	return nil
}

// pump sends what the client may get now. It stops when the connection has
// enough to write; drained goes on. The caller holds cl.mu.
func (b *Broker) pump(cl *client) {
	c := cl.conn
	if c == nil || !cl.begun {
		return
	}
	sent := false
	for !c.full() {
		p, ok := cl.session.Next(time.Now())
		if !ok {
			break
		}
		sent = true
		if p.Release {
			if c.send(pubrel(p.ID)) != nil {
				return // the connection is ending
			}
			continue
		}
		pk := publishPacket(p)
		fresh := c.useAlias(&pk)
		err := c.send(pk)
		if err != nil && fresh {
			c.forgetAlias(p.Topic) // the client has not heard of it
		}
		switch {
		case errors.Is(err, packets.ErrPacketTooLarge):
			// Larger than the client's Maximum Packet Size: it must not be
			// sent, and counts as done [MQTT-3.1.2-25].
			b.metrics.dropped.With("larger-than-client-takes").Inc()
			b.abandon(cl, p)
		case err != nil:
			return // the connection is ending; Detach takes care
		default:
			b.metrics.delivered.Inc()
			if p.QoS == 0 && p.Lease != nil {
				b.settleLease(p.Lease, outcomeDone) // nobody will acknowledge it
			}
		}
	}
	if sent {
		cl.signalMoved()
	}
	if cl.session.Waiting() == 0 && cl.session.Owes() {
		b.payDebts(cl)
	}
}

// payDebts reads again what is retained for the client's filters with
// wildcards, after a full queue had to refuse some of it. What it has already
// may come twice; nothing is missing. The caller holds cl.mu.
func (b *Broker) payDebts(cl *client) {
	c := cl.conn
	for sub := range cl.session.Subscriptions {
		if _, err := topics.Parse(sub.Filter); err != nil && !isShared(sub.Filter) {
			b.wg.Go(func() { b.sendRetainedAll(c, sub) })
		}
	}
}

// drained goes on sending after the connection had enough to write.
func (b *Broker) drained(c *conn) {
	cl := c.client
	if cl == nil {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == c {
		b.pump(cl)
	}
}

// acknowledged handles PUBACK.
func (b *Broker) acknowledged(c *conn, id uint16, code byte) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c {
		return
	}
	m, ok := cl.session.Ack(id)
	if !ok {
		return
	}
	b.finished(cl, m, code)
	b.pump(cl)
}

// finished is what is to be done about a message that the client has acknowledged
// or refused. The caller holds cl.mu.
func (b *Broker) finished(cl *client, m session.Message, code byte) {
	if m.Lease != nil {
		outcome := outcomeDone
		if code >= packets.ErrUnspecifiedError.Code {
			outcome = outcomeRefused
		}
		b.settleLease(m.Lease, outcome)
	}
	b.handled(cl, m)
}

// retainedPut is called for every retained message that was put, on any node,
// in order.
func (b *Broker) retainedPut(r cluster.Retained) {
	if r.Name.Kind == topics.KindAssignment {
		b.reassigned(r)
	}
	// No publisher waits for an answer here. A queue that was full owes the
	// message; deliver counts it and pump makes up for it.
	b.route(retainedFor(r, session.Subscription{QoS: 1}, false), r.Origin)
}

// retainedFor is the message of a retained topic. stored tells an answer to a
// subscription from a live one.
func retainedFor(r cluster.Retained, sub session.Subscription, stored bool) session.Message {
	m := session.Message{
		Topic: r.Name.String(), Payload: r.Payload, QoS: sub.QoS, Retain: true, Revision: r.Revision,
		Properties: []session.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(r.Version, 10)}},
	}
	if stored && sub.Identifier > 0 {
		m.Identifiers = []int{sub.Identifier}
	}
	return m
}

// routeUplink hands a stored report to ordinary subscribers, who get it only
// while they are there; groups get it from the store.
func (b *Broker) routeUplink(u cluster.Uplink, s cluster.Stored, origin string) {
	b.route(uplinkMessage(u, s), origin)
}

// uplinkMessage stamps a report.
func uplinkMessage(u cluster.Uplink, s cluster.Stored) session.Message {
	return session.Message{
		Topic: u.Name.String(), Payload: u.Payload, QoS: 1,
		Properties: []session.Property{
			{Key: topics.PropShard, Value: strconv.Itoa(s.Shard)},
			{Key: topics.PropSequence, Value: strconv.FormatUint(s.Sequence, 10)},
			{Key: topics.PropStored, Value: strconv.FormatInt(s.At.UnixMilli(), 10)},
			{Key: topics.PropModel, Value: u.Model},
			{Key: topics.PropHardware, Value: u.Hardware},
		},
	}
}

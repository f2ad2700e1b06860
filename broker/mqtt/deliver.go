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
	b.each(m, origin, func(cl *client, m session.Message) { b.deliver(cl, m) })
}

// each hands a message, as each of its subscribers on this node is to get it, to
// give.
func (b *Broker) each(m session.Message, origin string, give func(*client, session.Message)) {
	b.indexMu.RLock()
	hits := b.index.Match(m.Topic)
	b.indexMu.RUnlock()
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
		err := c.mochi.WritePacket(publishPacket(p))
		switch {
		case errors.Is(err, packets.ErrPacketTooLarge):
			// Larger than the client's Maximum Packet Size: it must not be
			// sent, and counts as done [MQTT-3.1.2-25].
			b.metrics.dropped.With("larger-than-client-takes").Inc()
			m, ok := cl.session.Ack(p.ID)
			if ok && m.Lease != nil {
				b.settleLease(m.Lease, outcomeTooLarge)
			}
			b.handled(m)
		case err != nil:
			return // the connection is ending; Detach takes care
		default:
			b.metrics.delivered.Inc()
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
	if m.Lease != nil {
		outcome := outcomeDone
		if code >= packets.ErrUnspecifiedError.Code {
			outcome = outcomeRefused
		}
		b.settleLease(m.Lease, outcome)
	}
	b.handled(m)
	b.pump(cl)
}

// publishPacket translates a message for mochi's encoder.
func publishPacket(p session.Packet) packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: p.QoS, Dup: p.Dup, Retain: p.Retain},
		PacketID:    p.ID, TopicName: p.Topic, Payload: p.Payload,
	}
	pk.Properties.User = userProperties(p.Properties)
	pk.Properties.SubscriptionIdentifier = p.Identifiers
	if !p.Expires.IsZero() { // [MQTT-3.3.2-6]
		left := (time.Until(p.Expires) + time.Second - 1) / time.Second
		pk.Properties.MessageExpiryInterval = uint32(max(left, 1))
	}
	return pk
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

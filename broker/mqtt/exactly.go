package mqtt

import (
	"groundswell/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

// received handles PUBREC: the client has a QoS 2 message, or refuses it.
func (b *Broker) received(c *conn, id uint16, code byte) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c {
		return
	}
	if code >= packets.ErrUnspecifiedError.Code {
		if m, ok := cl.session.Refuse(id); ok {
			b.finished(cl, m, code)
			b.pump(cl)
		}
		return // no PUBREL follows [MQTT-4.3.3-4]
	}
	m, known := cl.session.Received(id)
	ack := pubrel(id)
	switch {
	case known:
		b.finished(cl, m, code)
	case c.v5:
		ack.ReasonCode = packets.ErrPacketIdentifierNotFound.Code
	}
	_ = c.send(ack) // a closed connection gets no answer
}

// completed handles PUBCOMP.
func (b *Broker) completed(c *conn, id uint16) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == c && cl.session.Complete(id) {
		b.pump(cl)
	}
}

// abandon ends a message that was taken out to be sent and cannot be. The caller
// holds cl.mu.
func (b *Broker) abandon(cl *client, p session.Packet) {
	switch p.QoS {
	case 1:
		cl.session.Ack(p.ID)
	case 2:
		cl.session.Refuse(p.ID)
	}
	if p.Lease != nil {
		b.settleLease(p.Lease, outcomeTooLarge)
	}
	b.handled(cl, p.Message)
}

// receive notes a QoS 2 id.
func (b *Broker) receive(c *conn, id uint16) session.Receipt {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c {
		return session.Pending // taken over: the answer goes nowhere
	}
	return cl.session.Receive(id)
}

// settleReceipt says how handling a QoS 2 message has ended, whichever
// connection its client has by now. What was refused may come again.
func (b *Broker) settleReceipt(cl *client, id uint16, code packets.Code) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if code.Code >= packets.ErrUnspecifiedError.Code {
		cl.session.Release(id)
	} else {
		cl.session.Confirm(id)
	}
}

// release answers PUBREL.
func (b *Broker) release(c *conn, id uint16) {
	cl := c.client
	cl.mu.Lock()
	known := cl.conn == c && cl.session.Release(id)
	cl.mu.Unlock()
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: id}
	if !known && c.v5 {
		ack.ReasonCode = packets.ErrPacketIdentifierNotFound.Code
	}
	_ = c.send(ack) // a closed connection gets no answer
}

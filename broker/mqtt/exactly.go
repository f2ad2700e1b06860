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

// receive notes a QoS 2 id. While the store has not answered about the message of an
// earlier connection, again waits for that answer: neither yes nor no would be true.
func (b *Broker) receive(c *conn, id uint16, again answerFunc) (session.Receipt, uint64) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c {
		return session.Pending, 0 // taken over: the answer goes nowhere
	}
	before, token := cl.session.Receive(id)
	if before == session.Pending {
		if cl.repeats == nil {
			cl.repeats = map[uint64][]answerFunc{}
		}
		cl.repeats[token] = append(cl.repeats[token], again)
	}
	return before, token
}

// settleReceipt says how handling a QoS 2 message has ended, whichever
// connection its client has by now, and returns who else waits for that. What was
// refused may come again.
func (b *Broker) settleReceipt(cl *client, id uint16, token uint64, code packets.Code) []answerFunc {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if code.Code >= packets.ErrUnspecifiedError.Code {
		cl.session.Withdraw(id, token)
	} else {
		cl.session.Confirm(id, token)
	}
	waiting := cl.repeats[token]
	delete(cl.repeats, token)
	return waiting
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

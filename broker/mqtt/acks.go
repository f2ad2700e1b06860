package mqtt

import (
	"errors"
	"net"
	"sync"

	"groundswell/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

// errReceiveMaximum means that a client sent more than it was allowed to have
// under way.
var errReceiveMaximum = errors.New("receive maximum exceeded")

// acks is the first-in-first-out queue of what a client published and the
// store has not answered yet. Answers leave in the order of the publishes,
// whatever the order in which the store answers [MQTT-4.6.0-2].
type acks struct {
	conn *conn
	room chan struct{} // holds a token when the queue got shorter

	mu    sync.Mutex
	queue []*publish
}

// publish is one QoS 1 or 2 PUBLISH that waits for its answer.
type publish struct {
	id   uint16
	qos  byte
	done bool
	code packets.Code
	text string // reason string; code's own if empty
	user []session.Property
}

func (a *acks) init(c *conn) {
	a.conn = c
	a.room = make(chan struct{}, 1)
}

// expect enters a publish. A 3.1.1 client, who cannot know of a limit, waits
// for room (only its own reading stops); an MQTT 5 client that ignores the
// limit gets errReceiveMaximum.
func (a *acks) expect(id uint16, qos byte) (*publish, error) {
	p := &publish{id: id, qos: qos}
	for !a.enter(p) {
		if a.conn.v5 {
			return nil, errReceiveMaximum
		}
		select {
		case <-a.room:
		case <-a.conn.done:
			return nil, net.ErrClosed
		}
	}
	return p, nil
}

func (a *acks) enter(p *publish) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) >= a.conn.limits.ReceiveMaximum {
		return false
	}
	a.queue = append(a.queue, p)
	return true
}

// answer settles a publish and sends every answer whose turn has come. It does
// not block.
func (a *acks) answer(p *publish, code packets.Code, text string, user ...session.Property) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.done, p.code, p.text, p.user = true, code, text, user
	for len(a.queue) > 0 && a.queue[0].done {
		next := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		a.send(next)
	}
	select {
	case a.room <- struct{}{}:
	default:
	}
}

// send writes PUBACK or PUBREC. A 3.1.1 client cannot be told of a failure in
// any other way than by closing.
func (a *acks) send(p *publish) {
	c := a.conn
	if c.isClosed() {
		return
	}
	failed := p.code.Code >= packets.ErrUnspecifiedError.Code
	if failed && !c.v5 {
		c.because("error")
		_ = c.Close() // never fails
		return
	}
	ack := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Puback},
		PacketID:    p.id,
		ReasonCode:  p.code.Code,
	}
	if p.qos == 2 {
		ack.FixedHeader.Type = packets.Pubrec
	}
	if !c.v5 {
		ack.ReasonCode = 0
	}
	if failed {
		ack.Properties.ReasonString = p.code.Reason
		if p.text != "" {
			ack.Properties.ReasonString = p.text
		}
		ack.Properties.User = userProperties(p.user)
	}
	_ = c.send(ack) // a closed connection gets no answer
}

func userProperties(ps []session.Property) []packets.UserProperty {
	var user []packets.UserProperty
	for _, p := range ps {
		user = append(user, packets.UserProperty{Key: p.Key, Val: p.Value})
	}
	return user
}

package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// errEnded means that a connection is over, and why has been told.
var errEnded = errors.New("the connection has ended")

// serve runs a connection until it ends, and then calls leave. It returns as soon
// as the client is connected: from there on another goroutine reads, whose stack
// has not grown with the handshakes.
func (b *Broker) serve(c *conn, leave func()) {
	c.onDrain = func() { b.drained(c) }
	c.wire.patient = c.web == nil
	err := b.hear(c)
	for err == nil && c.client == nil {
		if err = c.wire.wait(); err == nil {
			err = b.hear(c)
		}
	}
	if err != nil {
		b.finish(c, err)
		leave()
		return
	}
	b.wg.Go(func() {
		defer leave()
		b.attend(c)
	})
}

// attend reads until the connection ends.
func (b *Broker) attend(c *conn) {
	var err error
	for err == nil {
		if err = c.wire.wait(); err == nil {
			err = b.hear(c)
		}
	}
	b.finish(c, err)
}

func (b *Broker) finish(c *conn, err error) {
	b.detach(c, err)
	_ = c.Close() // never fails
}

// hear handles the packets that have come. mochi's decoder indexes past the end of
// some malformed ones; that must cost the connection, not the broker.
func (b *Broker) hear(c *conn) (err error) {
	defer func() {
		if r := recover(); r != nil {
			b.metrics.panics.Inc()
			b.log.Error("decoder panicked on a malformed packet", "remote", c.remote, "identity", c.identity.String(),
				"panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			b.unreadable(c, "malformed", packets.ErrMalformedPacket, errMalformed)
			err = errMalformed
		}
	}()
	err = c.drain(func(packet []byte) error { return b.handle(c, packet) })
	switch {
	case errors.Is(err, errTooLarge):
		b.unreadable(c, "too-large", packets.ErrPacketTooLarge, err) // [MQTT-3.2.2-15]
	case errors.Is(err, errMalformed):
		b.unreadable(c, "malformed", packets.ErrMalformedPacket, err)
	case errors.Is(err, errFrame):
		b.unreadable(c, "websocket", packets.ErrMalformedPacket, err) // the closing frame has said it
	}
	return err
}

// unreadable ends a connection whose bytes make no sense [MQTT-4.13.1-1].
func (b *Broker) unreadable(c *conn, reason string, code packets.Code, err error) {
	if !c.isClosed() {
		b.audit(c, topics.RefusedPacket, reason, "", err)
	}
	c.disconnect(code, reason)
}

// drain hands out the packets that have come, one by one, and returns when no more
// is there. What is left of a packet that has not come as a whole stays in rest.
func (c *conn) drain(handle func(packet []byte) error) error {
	space := spaces.Get().(*[readSize]byte)
	defer spaces.Put(space)
	in := space[:0]
	if len(c.rest) < readSize/2 {
		in = append(in, c.rest...)
	} else {
		in = c.rest // has room of its own
	}
	c.rest = nil
	for {
		if len(in) == cap(in) {
			in = slices.Grow(in, len(in)) // no more than twice what has come
		}
		n, err := c.receive(in[len(in):cap(in)])
		in = in[:len(in)+n]
		rest, handled, failed := split(in, c.limits.MaxPacket, handle)
		if failed != nil {
			return failed
		}
		if handled > 0 {
			if err := c.alive(); err != nil {
				return err
			}
		}
		in = in[:copy(in, rest)]
		switch {
		case errors.Is(err, errNotYet):
			c.keepRest(in)
			return nil
		case err != nil:
			return err
		}
	}
}

// keepRest keeps the beginning of a packet, without the space that all share.
func (c *conn) keepRest(in []byte) {
	switch {
	case len(in) == 0:
	case len(in) < readSize/2 || cap(in) <= readSize:
		c.rest = bytes.Clone(in)
	default:
		c.rest = in
	}
}

// receive reads bytes of the MQTT stream.
func (c *conn) receive(p []byte) (int, error) {
	if c.web != nil {
		return c.web.Read(p)
	}
	return c.Conn.Read(p)
}

// alive begins a new keep-alive period. We do the arithmetic, because mochi's
// overflows (B12).
func (c *conn) alive() error {
	switch keep := c.keep.Load(); {
	case keep < 0:
		return nil // the deadline for CONNECT stands
	case keep == 0:
		return c.setReadDeadline(time.Time{})
	default:
		return c.setReadDeadline(time.Now().Add(time.Duration(keep) * time.Second * 3 / 2)) // [MQTT-3.1.2-22]
	}
}

// handle does what a packet asks for. An error ends the connection, and has been
// told to the client where there is a way.
func (b *Broker) handle(c *conn, packet []byte) error {
	if c.client == nil {
		return b.greet(c, packet)
	}
	if c.isClosed() {
		return errEnded
	}
	pk, err := decode(packet, c.params.version)
	var code packets.Code
	if errors.As(err, &code) {
		reason := "malformed"
		if code.Code == packets.ErrProtocolViolation.Code {
			reason = "protocol"
		}
		b.unreadable(c, reason, code, err)
		return errEnded
	}
	if err != nil {
		b.unreadable(c, "malformed", packets.ErrMalformedPacket, err)
		return errEnded
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		code = b.publish(c, &pk)
	case packets.Puback:
		b.acknowledged(c, pk.PacketID, pk.ReasonCode)
	case packets.Pubrec:
		b.received(c, pk.PacketID, pk.ReasonCode)
	case packets.Pubcomp:
		b.completed(c, pk.PacketID)
	case packets.Pubrel:
		b.release(c, pk.PacketID)
	case packets.Subscribe:
		code = b.subscribe(c, &pk)
	case packets.Unsubscribe:
		code = b.unsubscribe(c, &pk)
	case packets.Pingreq:
		_ = c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingresp}}) // a closed connection gets no answer
	case packets.Disconnect:
		b.farewell(c, &pk)
		return errEnded
	case packets.Auth:
		code = packets.ErrProtocolViolation // no method was agreed on [MQTT-4.12.0-1]
	}
	if code.Code >= packets.ErrUnspecifiedError.Code {
		b.audit(c, topics.RefusedPacket, "protocol", pk.TopicName, code)
		c.disconnect(code, "protocol")
		return errEnded
	}
	return nil
}

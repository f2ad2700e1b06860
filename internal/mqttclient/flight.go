package mqttclient

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session"
)

// Flight is what leaves together with CONNECT, without waiting for CONNACK: MQTT 5
// allows that (section 3.1.4), and a broker that refuses CONNECT handles nothing of
// it [MQTT-3.1.4-6]. So a check-in takes one round trip, not one for each packet.
// What the broker's limits are is not known yet: a flight is for little.
type Flight struct {
	// Subscribe goes in one packet; none: no packet.
	Subscribe []Subscription
	// Publish goes after it, in order. At most MaxFlight, of QoS 1.
	Publish []Publication
}

// MaxFlight is how many publications a flight may carry.
const MaxFlight = 16

// MaxFlightBytes bounds them together, in bytes: what a slow link takes at once.
const MaxFlightBytes = 32 << 10

// Landing is what became of a flight.
type Landing struct {
	// Subscribed is as from Subscribe.
	Subscribed error
	// Published is as from Publish, for each publication.
	Published []error
}

// early is a packet of a flight with its place for the answer.
type early struct {
	session.Packet
	id     uint16 // the last that it was given
	answer chan packets.ControlPacket
}

func newEarly(p session.Packet) *early {
	return &early{Packet: p, answer: make(chan packets.ControlPacket, 1)}
}

func (e *early) SetIdentifier(id uint16) {
	e.id = id
	e.Packet.SetIdentifier(id)
}

// launch encodes a flight. Packet identifiers count from 1, as those of a session's
// state do that nothing was added to yet; see ephemeral.
func (f *Flight) launch() (list []*early, encoded []byte, err error) {
	if len(f.Publish) > MaxFlight {
		return nil, nil, fmt.Errorf("flight: %d publications, at most %d", len(f.Publish), MaxFlight)
	}
	if len(f.Subscribe) > 0 {
		p, err := subscribePacket(f.Subscribe)
		if err != nil {
			return nil, nil, err
		}
		list = append(list, newEarly(p.Packet()))
	}
	size := 0
	for _, p := range f.Publish {
		if p.QoS != 1 {
			return nil, nil, fmt.Errorf("flight: publish to %s: QoS %d, want 1", p.Topic, p.QoS)
		}
		size += p.size()
		list = append(list, newEarly(p.packet().Packet()))
	}
	if size > MaxFlightBytes {
		return nil, nil, fmt.Errorf("flight: %w: about %d bytes, at most %d", ErrPacketTooLarge, size, MaxFlightBytes)
	}
	var out bytes.Buffer
	for i, e := range list {
		e.SetIdentifier(uint16(i + 1))
		if _, err := e.WriteTo(&out); err != nil {
			return nil, nil, fmt.Errorf("flight: %w", err)
		}
	}
	return list, out.Bytes(), nil
}

var errOtherAnswer = errors.New("the broker answered with another kind of packet")

// Landed waits, no longer than AckTimeout, for the answers to the flight that the session
// was dialled with. An error (the connection was lost, ErrTimeout, ctx's) means that not all came; Landing
// has it for those that did not. Call it once.
func (s *Session) Landed(ctx context.Context) (Landing, error) {
	landing := Landing{Published: make([]error, len(s.flight.Publish))}
	timeout, cancel := context.WithTimeoutCause(ctx, s.ackTimeout, ErrTimeout)
	defer cancel()
	waiting := s.early
	take := func() (packets.ControlPacket, error) {
		answer := waiting[0].answer
		waiting = waiting[1:]
		select {
		case p := <-answer: // whatever has happened since
			return p, nil
		default:
		}
		select {
		case p := <-answer:
			return p, nil
		case <-s.Done():
			return packets.ControlPacket{}, s.Err()
		case <-timeout.Done():
			return packets.ControlPacket{}, context.Cause(timeout)
		}
	}
	var failed error
	if len(s.flight.Subscribe) > 0 {
		p, err := take()
		if ack, ok := p.Content.(*packets.Suback); ok {
			err = granted(paho.SubackFromPacketSuback(ack), s.flight.Subscribe)
		} else {
			err = cmp.Or(err, errOtherAnswer)
			failed = err
		}
		landing.Subscribed = err
	}
	for i := range s.flight.Publish {
		p, err := take()
		if ack, ok := p.Content.(*packets.Puback); ok {
			err = taken(paho.PublishResponseFromPuback(ack), s.flight.Publish[i].Topic)
		} else {
			err = cmp.Or(err, errOtherAnswer)
			failed = err
		}
		landing.Published[i] = err
	}
	return landing, failed
}

package mqttclient

import (
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// Property is one MQTT 5 user property. A key may occur more than once.
type Property struct{ Key, Value string }

// Message is what arrived on a subscription.
type Message struct {
	Topic     string
	Payload   []byte
	QoS       byte
	Retained  bool // stored by the broker before we subscribed
	Duplicate bool // delivered before, perhaps handled, but not acknowledged
	// Properties are the user properties, in order.
	Properties []Property
	// Expiry is what is left of the message's life; 0 means that it has no end.
	Expiry time.Duration

	ack func() error
}

// Property returns the first user property named key.
func (m *Message) Property(key string) (string, bool) {
	for _, p := range m.Properties {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

// Ack acknowledges the message, with ManualAck. Acknowledgements leave in the
// order of arrival: one that is called early waits for those before it. It may
// be called from any goroutine, once. ErrConnectionLost means that the
// message's connection is gone and the broker will deliver it again. At QoS 0,
// and without ManualAck, it does nothing.
func (m *Message) Ack() error {
	if m.ack == nil {
		return nil
	}
	return m.ack()
}

// Publication is what Publish sends.
type Publication struct {
	Topic      string
	Payload    []byte
	QoS        byte // 0 or 1
	Retain     bool
	Properties []Property
	// Expiry is how long the broker may keep it for somebody absent, rounded
	// up to whole seconds, at most MaxExpiry; 0 means without end.
	Expiry time.Duration
}

// RetainHandling says when a subscription delivers retained messages.
type RetainHandling byte

const (
	RetainSend      RetainHandling = 0 // at every subscribe
	RetainSendIfNew RetainHandling = 1 // unless the session had the subscription already
	RetainIgnore    RetainHandling = 2 // never
)

// Subscription is one filter of a Subscribe.
type Subscription struct {
	Filter         string
	QoS            byte // 0 or 1: the highest at which messages are delivered
	RetainHandling RetainHandling
	NoLocal        bool
}

// received translates paho's packet. Retained stays visible because every
// subscription asks for it (retain as published is off: the flag then means
// "this was stored").
func received(p *paho.Publish, ack func() error) Message {
	m := Message{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS,
		Retained: p.Retain, Duplicate: p.Duplicate(), ack: ack,
	}
	if p.Properties != nil {
		for _, u := range p.Properties.User {
			m.Properties = append(m.Properties, Property{u.Key, u.Value})
		}
		if p.Properties.MessageExpiry != nil {
			m.Expiry = time.Duration(*p.Properties.MessageExpiry) * time.Second
		}
	}
	return m
}

// packet translates a publication for paho.
func (p *Publication) packet() *paho.Publish {
	out := &paho.Publish{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain,
		Properties: &paho.PublishProperties{},
	}
	for _, u := range p.Properties {
		out.Properties.User.Add(u.Key, u.Value)
	}
	if p.Expiry > 0 {
		out.Properties.MessageExpiry = paho.Uint32(wholeSeconds(p.Expiry))
	}
	return out
}

// size bounds from above what the publication takes on the wire, in bytes.
func (p *Publication) size() int {
	n := 32 + len(p.Topic) + len(p.Payload)
	for _, u := range p.Properties {
		n += 5 + len(u.Key) + len(u.Value)
	}
	return n
}

// wholeSeconds rounds up, and caps at MaxExpiry. d is not negative.
func wholeSeconds(d time.Duration) uint32 {
	s := min(d, MaxExpiry) / time.Second
	if s*time.Second < d && d < MaxExpiry {
		s++
	}
	return uint32(s)
}

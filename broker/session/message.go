package session

import "time"

// Property is an MQTT 5 user property.
type Property struct{ Key, Value string }

// Message is what one client is to get.
type Message struct {
	Topic      string
	Payload    []byte // shared between clients, never written to
	QoS        byte   // 0 or 1, as granted to this client
	Retain     bool
	Properties []Property
	// Identifiers are the subscription identifiers that matched.
	Identifiers []int
	// Expires is when delivery is pointless; zero means never.
	Expires time.Time
	// Revision orders the messages of one retained topic; 0 means that the
	// topic is not retained and that nothing is conflated.
	Revision uint64
	// Sequence is where the message is stored, 0 if it is not. It grows along the
	// queue.
	Sequence uint64
	// Lease is the caller's handle on a message that is on loan; nil if it is
	// not.
	Lease any
}

// size is what a waiting message counts in bytes. The constant stands for the
// bookkeeping.
func (m *Message) size() int {
	n := 128 + len(m.Topic) + len(m.Payload)
	for _, p := range m.Properties {
		n += len(p.Key) + len(p.Value)
	}
	return n
}

// expired reports whether m need not be sent any more.
func (m *Message) expired(now time.Time) bool {
	return !m.Expires.IsZero() && !now.Before(m.Expires)
}

// Packet is a message on its way out.
type Packet struct {
	ID  uint16 // 0 for QoS 0
	Dup bool   // sent before, on an earlier connection
	Message
}

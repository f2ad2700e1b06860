package session

import "time"

// Property is an MQTT 5 user property.
type Property struct{ Key, Value string }

// Content is what an MQTT 5 publisher says about a payload (section 3.3.2.3); what
// is zero was not said. It is shared between clients, never written to.
type Content struct {
	Format        byte   `json:"format,omitempty"` // Payload Format Indicator, if HasFormat
	HasFormat     bool   `json:"has_format,omitempty"`
	Type          string `json:"type,omitempty"`
	ResponseTopic string `json:"response_topic,omitempty"`
	Correlation   []byte `json:"correlation,omitempty"`
}

// Message is what one client is to get.
type Message struct {
	Topic      string
	Payload    []byte // shared between clients, never written to
	QoS        byte   // 0, 1 or 2, as granted to this client
	Retain     bool
	Properties []Property
	Content    *Content // nil: its publisher said nothing about the payload
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
	if c := m.Content; c != nil {
		n += len(c.Type) + len(c.ResponseTopic) + len(c.Correlation)
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
	// Release: the client has the message, and it is PUBREL that is to be sent
	// (again). Message is zero.
	Release bool
	Message
}

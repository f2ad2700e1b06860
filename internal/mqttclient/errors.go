package mqttclient

import (
	"errors"
	"fmt"
)

var (
	// ErrNotConnected: there is no connection now. Nothing was sent.
	ErrNotConnected = errors.New("not connected to the broker")
	// ErrConnectionLost: the connection went before the answer came. Whether the
	// broker took the request is unknown.
	ErrConnectionLost = errors.New("connection to the broker lost")
	// ErrTimeout: the broker did not answer in time. Whether it took the request
	// is unknown.
	ErrTimeout = errors.New("no answer from the broker in time")
	// ErrPacketTooLarge: a packet is larger than this side or the other allows.
	ErrPacketTooLarge = errors.New("MQTT packet too large")
)

// RefusedError is the broker saying no, in the packet named Packet (CONNACK,
// PUBACK, SUBACK, UNSUBACK or DISCONNECT).
type RefusedError struct {
	Packet string
	Code   byte   // MQTT 5 reason code, 0x80 or above
	Reason string // the broker's words, may be empty
	Topic  string // topic or filter that was refused, if the packet is about one
	// Properties are the user properties of a PUBACK.
	Properties []Property
}

// Property returns the first user property named key.
func (e *RefusedError) Property(key string) (string, bool) {
	for _, p := range e.Properties {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

func (e *RefusedError) Error() string {
	name := reasonNames[e.Code]
	if name == "" {
		name = "refused"
	}
	text := fmt.Sprintf("broker answered %s 0x%02X %s", e.Packet, e.Code, name)
	if e.Topic != "" {
		text += " for " + e.Topic
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Refused reports whether err is a refusal, and its reason code.
func Refused(err error) (code byte, ok bool) {
	var r *RefusedError
	if errors.As(err, &r) {
		return r.Code, true
	}
	return 0, false
}

// The reason codes of MQTT 5 that callers ask for by name [MQTT5 2.4].
const (
	CodeUnspecified      = 0x80
	CodeNotAuthorized    = 0x87
	CodeServerBusy       = 0x89
	CodeSessionTakenOver = 0x8E
	CodeQuotaExceeded    = 0x97
)

var reasonNames = map[byte]string{
	0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error",
	0x83: "implementation specific error", 0x84: "unsupported protocol version",
	0x85: "client identifier not valid", 0x86: "bad user name or password",
	0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy",
	0x8A: "banned", 0x8B: "server shutting down", 0x8C: "bad authentication method",
	0x8D: "keep alive timeout", 0x8E: "session taken over", 0x8F: "topic filter invalid",
	0x90: "topic name invalid", 0x91: "packet identifier in use", 0x93: "receive maximum exceeded",
	0x95: "packet too large", 0x96: "message rate too high", 0x97: "quota exceeded",
	0x98: "administrative action", 0x99: "payload format invalid", 0x9A: "retain not supported",
	0x9B: "QoS not supported", 0x9C: "use another server", 0x9D: "server moved",
	0x9E: "shared subscriptions not supported", 0x9F: "connection rate exceeded",
	0xA0: "maximum connect time", 0xA2: "wildcard subscriptions not supported",
}

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"groundswell/topics"
)

// As much of MQTT as the load needs. Types are those of the fixed header.
const (
	typeConnack = 2
	typePublish = 3
	typePuback  = 4
	typeSuback  = 9
)

// keepAlive in seconds is longer than any measurement, so that nobody pings.
const keepAlive = 1200

var (
	errMalformed = errors.New("malformed packet")
	errRefused   = errors.New("the server refuses a message")
)

// packet appends a packet whose body is at hand.
func packet(b []byte, first byte, body ...[]byte) []byte {
	n := 0
	for _, part := range body {
		n += len(part)
	}
	b = binary.AppendUvarint(append(b, first), uint64(n)) // the same encoding
	for _, part := range body {
		b = append(b, part...)
	}
	return b
}

func text(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// protocol is the version of MQTT that a server is spoken to: 5, or 4, which is
// 3.1.1.
type protocol byte

// properties are none, where the version has any.
func (v protocol) properties(b []byte) []byte {
	if v == 5 {
		b = append(b, 0)
	}
	return b
}

// connect begins a session that ends with its connection.
func (v protocol) connect(client string) []byte {
	body := text(nil, "MQTT")
	body = append(body, byte(v), 0x02) // version, clean start
	body = binary.BigEndian.AppendUint16(body, keepAlive)
	return packet(nil, 0x10, text(v.properties(body), client))
}

// subscribe asks for QoS 1.
func (v protocol) subscribe(id uint16, filter string) []byte {
	body := v.properties(binary.BigEndian.AppendUint16(nil, id))
	return packet(nil, 0x82, append(text(body, filter), 1))
}

// publish is at QoS 1. A version above 0 makes it a retained message of the wire
// contract.
func (v protocol) publish(b []byte, id uint16, topic string, payload []byte, version int64) []byte {
	first := byte(0x32)
	var properties []byte
	if version > 0 {
		first |= 0x01
		properties = append(properties, 0x26) // user property
		properties = text(text(properties, topics.PropVersion), strconv.FormatInt(version, 10))
	}
	head := binary.BigEndian.AppendUint16(text(nil, topic), id)
	if v == 5 {
		head = append(binary.AppendUvarint(head, uint64(len(properties))), properties...)
	}
	return packet(b, first, head, payload)
}

func pubackPacket(id uint16) []byte { return []byte{0x40, 2, byte(id >> 8), byte(id)} }

func disconnectPacket() []byte { return []byte{0xe0, 0} }

// receiveMaximum reads how much the server lets a client have under way out of
// a CONNACK; a refusal is an error.
func (v protocol) receiveMaximum(connack []byte) (int, error) {
	if len(connack) < 2 || (v == 5 && len(connack) < 3) {
		return 0, fmt.Errorf("CONNACK: %w", errMalformed)
	}
	if code := connack[1]; code != 0 {
		return 0, fmt.Errorf("the server refuses the connection: 0x%02x", code)
	}
	if v != 5 {
		return 65535, nil
	}
	size, n := binary.Uvarint(connack[2:])
	if n <= 0 || uint64(len(connack)-2-n) < size {
		return 0, fmt.Errorf("CONNACK: %w", errMalformed)
	}
	limit := 65535
	for p := connack[2+n:]; len(p) > 0; {
		used := propertySize(p)
		if used == 0 || used > len(p) {
			return 0, fmt.Errorf("CONNACK: property 0x%02x: %w", p[0], errMalformed)
		}
		if p[0] == 0x21 {
			limit = int(binary.BigEndian.Uint16(p[1:]))
		}
		p = p[used:]
	}
	return limit, nil
}

// propertySize is the length of the first property of a CONNACK, identifier
// included; 0 if it is unknown or cut short.
func propertySize(p []byte) int {
	str := func(at int) int {
		if len(p) < at+2 {
			return 0
		}
		return at + 2 + int(binary.BigEndian.Uint16(p[at:]))
	}
	switch p[0] {
	case 0x24, 0x25, 0x28, 0x29, 0x2a:
		return 2
	case 0x13, 0x21, 0x22:
		return 3
	case 0x11, 0x27:
		return 5
	case 0x12, 0x15, 0x16, 0x1a, 0x1c, 0x1f:
		return str(1)
	case 0x26:
		if key := str(1); key > 0 {
			return str(key)
		}
	}
	return 0
}

// received is a PUBLISH that came. topic is valid until the next packet is read.
type received struct {
	topic []byte
	id    uint16 // 0 at QoS 0
	at    time.Time
}

func parsePublish(first byte, body []byte) (received, error) {
	if len(body) < 2 {
		return received{}, fmt.Errorf("PUBLISH: %w", errMalformed)
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	if len(body) < n+2 {
		return received{}, fmt.Errorf("PUBLISH: %w", errMalformed)
	}
	r := received{topic: body[2:n], at: time.Now()}
	if first&0x06 != 0 {
		r.id = binary.BigEndian.Uint16(body[n:])
	}
	return r, nil
}

// acknowledged reads a PUBACK or SUBACK; a refusal is an error.
func acknowledged(kind byte, body []byte) error {
	switch {
	case len(body) < 2, kind == typeSuback && len(body) < 3:
		return fmt.Errorf("acknowledgement: %w", errMalformed)
	case kind == typePuback && len(body) > 2 && body[2] >= 0x80:
		return fmt.Errorf("%w: 0x%02x", errRefused, body[2])
	case kind == typeSuback && body[len(body)-1] >= 0x80:
		return fmt.Errorf("the server refuses a subscription: 0x%02x", body[len(body)-1])
	}
	return nil
}

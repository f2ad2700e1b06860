package mqtt

import (
	"errors"
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Refusals of the byte stream.
var (
	errTooLarge  = errors.New("packet too large")
	errMalformed = errors.New("malformed packet")
)

// packetLength is how long the packet is that b begins with, header included; 0
// while b does not say it. More than limit is errTooLarge, which is known when the
// header has come, before anybody makes room for the rest.
func packetLength(b []byte, limit int) (int, error) {
	length := 0
	for i := 1; i < len(b); i++ {
		length |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 == 0 {
			if n := 1 + i + length; n > limit {
				return 0, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, n, limit)
			} else {
				return n, nil
			}
		}
		if i == 4 { // [MQTT-1.5.5-1]
			return 0, fmt.Errorf("%w: more than four bytes of length", errMalformed)
		}
	}
	return 0, nil
}

// split hands out the packets that in begins with, and returns what is left and how
// many there were.
func split(in []byte, limit int, handle func(packet []byte) error) (rest []byte, handled int, err error) {
	for {
		n, err := packetLength(in, limit)
		if err != nil || n == 0 || n > len(in) {
			return in, handled, err
		}
		if err := handle(in[:n]); err != nil {
			return in, handled, err
		}
		in, handled = in[n:], handled+1
	}
}

// decode reads a packet of the given version of the protocol. It does not keep b.
// Like mochi's decoder it may panic on some malformed packets.
func decode(b []byte, version byte) (pk packets.Packet, err error) {
	pk.ProtocolVersion = version
	if err := pk.FixedHeader.Decode(b[0]); err != nil {
		return pk, err
	}
	header := 2
	for b[header-1]&0x80 != 0 {
		header++
	}
	body := append([]byte(nil), b[header:]...)
	pk.FixedHeader.Remaining = len(body)
	switch pk.FixedHeader.Type {
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Auth:
		err = pk.AuthDecode(body)
	case packets.Pingreq:
		if len(body) > 0 {
			err = packets.ErrMalformedPacket
		}
	case packets.Connect:
		err = packets.ErrProtocolViolationSecondConnect // [MQTT-3.1.0-2]
	default:
		err = packets.ErrProtocolViolation // reserved, or for clients only
	}
	return pk, err
}

package mqtt

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

var encoders = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxEncoder is how much room an encoder may keep.
const maxEncoder = 64 << 10

// send encodes a packet for the client and queues it. It does not block. Errors:
// packets.ErrPacketTooLarge, if it is larger than the client takes [MQTT-3.1.2-24],
// which ends the connection unless it was a message; or that the connection is
// ending.
func (c *conn) send(pk packets.Packet) error {
	pk.ProtocolVersion = c.params.version
	pk.Mods = packets.Mods{
		AllowResponseInfo: true,
		// [MQTT-3.1.2-29]; mochi takes the user properties of messages for problem information.
		DisallowProblemInfo: c.params.noProblems && pk.FixedHeader.Type != packets.Publish,
		MaxSize:             c.params.maxPacket,
	}
	buf := encoders.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxEncoder {
			buf.Reset()
			encoders.Put(buf)
		}
	}()
	if err := encode(&pk, buf); err != nil {
		return err
	}
	if n := pk.Mods.MaxSize; n > 0 && buf.Len() > int(n) {
		if t := pk.FixedHeader.Type; t != packets.Publish && t != packets.Disconnect {
			c.disconnect(packets.ErrPacketTooLarge, "answer-too-large") // it would wait for ever
		}
		return packets.ErrPacketTooLarge
	}
	if pk.FixedHeader.Type == packets.Connack {
		c.greets.Store(true)
	}
	_, err := c.Write(buf.Bytes())
	return err
}

func encode(pk *packets.Packet, buf *bytes.Buffer) error {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return pk.ConnackEncode(buf)
	case packets.Publish:
		return pk.PublishEncode(buf)
	case packets.Puback:
		return pk.PubackEncode(buf)
	case packets.Pubrec:
		return pk.PubrecEncode(buf)
	case packets.Pubrel:
		return pk.PubrelEncode(buf)
	case packets.Pubcomp:
		return pk.PubcompEncode(buf)
	case packets.Suback:
		return pk.SubackEncode(buf)
	case packets.Unsuback:
		return pk.UnsubackEncode(buf)
	case packets.Pingresp:
		return pk.PingrespEncode(buf)
	case packets.Disconnect:
		return pk.DisconnectEncode(buf)
	}
	return fmt.Errorf("%w: type %d", packets.ErrNoValidPacketAvailable, pk.FixedHeader.Type)
}

package mqtt

import (
	"log/slog"

	"groundswell/topics"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// newMochi returns a mochi server that is never started: it has no listeners,
// no loops and no $SYS topics, and serves only EstablishConnection. See the
// package comment for what it is left to do.
func newMochi(b *Broker) *mochi.Server {
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumMessageExpiryInterval = 0 // 24 h would shorten what publishers asked for
	capabilities.MaximumClientWritesPending = 1   // its queue is not used, and costs 9 bytes a place
	capabilities.MaximumPacketSize = uint32(b.cfg.Limits.MaxPacket)
	capabilities.ReceiveMaximum = uint16(b.cfg.Limits.ReceiveMaximum)
	capabilities.TopicAliasMaximum = maxAliases
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	server := mochi.New(&mochi.Options{
		Capabilities:            capabilities,
		ClientNetReadBufferSize: 2048,
		// Never written to: conn has its own.
		ClientNetWriteBufferSize: 512,
		// It logs whole packets and a line per disconnect; we log what matters.
		Logger:                 slog.New(slog.DiscardHandler),
		SysTopicResendInterval: 3600,
	})
	if err := server.AddHook(&hook{b: b}, nil); err != nil {
		panic(err) // it fails only if Init does, and ours is mochi's empty one
	}
	return server
}

// hook is how mochi calls us.
type hook struct {
	mochi.HookBase
	b *Broker
}

func (h *hook) ID() string { return "groundswell" }

func (h *hook) Provides(what byte) bool {
	switch what {
	case mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnSessionEstablished, mochi.OnPacketRead, mochi.OnPacketEncode:
		return true
	}
	return false
}

// OnConnect decides about a CONNECT packet. mochi closes without CONNACK after
// an error, so refuse has sent it.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	return h.b.connect(cl.Net.Conn.(*conn), cl, &pk)
}

// OnConnectAuthenticate says yes: the certificate has spoken, and OnConnect.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// OnSessionEstablished comes after CONNACK.
func (h *hook) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) {
	h.b.established(cl.Net.Conn.(*conn))
}

// connackBefore5 translates what mochi itself refuses in a CONNECT into what 3.1.1
// knows (section 3.2.2.3).
func connackBefore5(code byte) byte {
	switch code {
	case packets.ErrUnsupportedProtocolVersion.Code:
		return 1
	case packets.ErrUnspecifiedError.Code, packets.ErrClientIdentifierNotValid.Code: // no client id, but a session that is to last
		return 2
	}
	return 5
}

// nothing is a packet that mochi does nothing about: the acknowledgement of a
// message that it has not sent.
var nothing = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}}

// OnPacketRead takes out every packet that carries a promise.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	c := cl.Net.Conn.(*conn)
	if c.client == nil {
		return tolerate(c, pk), nil // CONNECT, or what mochi refuses in its place
	}
	var code packets.Code
	switch pk.FixedHeader.Type {
	case packets.Publish:
		code = h.b.publish(c, &pk)
	case packets.Puback:
		h.b.acknowledged(c, pk.PacketID, pk.ReasonCode)
	case packets.Pubrec:
		h.b.received(c, pk.PacketID, pk.ReasonCode)
	case packets.Pubcomp:
		h.b.completed(c, pk.PacketID)
	case packets.Pubrel:
		h.b.release(c, pk.PacketID)
	case packets.Subscribe:
		code = h.b.subscribe(c, &pk)
	case packets.Unsubscribe:
		code = h.b.unsubscribe(c, &pk)
	case packets.Disconnect:
		return h.b.farewell(c, pk)
	case packets.Auth:
		code = packets.ErrProtocolViolation // no method was agreed on [MQTT-4.12.0-1]
	default:
		return pk, nil // PINGREQ; or what mochi refuses
	}
	if code.Code >= packets.ErrUnspecifiedError.Code {
		h.b.audit(c, topics.RefusedPacket, "protocol", pk.TopicName, code)
		c.disconnect(code, "protocol")
		return pk, packets.ErrRejectPacket // ends mochi's loop
	}
	return nothing, nil
}

// tolerate hides from mochi what it refuses although it is legal: a will without a
// payload, and an empty password [MQTT-3.1.3.3].
func tolerate(c *conn, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type != packets.Connect {
		return pk
	}
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		c.emptyWill = true
		pk.Connect.WillPayload = []byte{0}
	}
	if len(pk.Connect.Password) == 0 {
		pk.Connect.PasswordFlag = false
	}
	return pk
}

// OnPacketEncode completes CONNACK, which mochi fills in only in part, and keeps the
// user properties of messages, which mochi holds for problem information.
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Publish {
		pk.Mods.DisallowProblemInfo = false // [MQTT-3.1.2-29]
	}
	if pk.FixedHeader.Type != packets.Connack {
		return pk
	}
	c := cl.Net.Conn.(*conn)
	c.greets.Store(true)
	if c.client == nil || pk.ReasonCode != packets.CodeSuccess.Code { // [MQTT-3.2.2-6]
		pk.Properties = packets.Properties{ReasonString: pk.Properties.ReasonString}
		if cl.Properties.ProtocolVersion < 5 && pk.ReasonCode >= packets.ErrUnspecifiedError.Code {
			pk.ReasonCode = connackBefore5(pk.ReasonCode)
		}
		return pk
	}
	pk.SessionPresent = c.params.present
	pk.Properties.AssignedClientID = c.assigned
	pk.Properties.TopicAliasMaximum = maxAliases
	pk.Properties.MaximumPacketSize = uint32(h.b.cfg.Limits.MaxPacket)
	if c.params.expiryCapped {
		pk.Properties.SessionExpiryInterval = uint32(c.params.expiry.Seconds())
		pk.Properties.SessionExpiryIntervalFlag = true
	}
	return pk
}

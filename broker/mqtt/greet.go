package mqtt

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// errGreeted ends mochi's part in a connection.
var errGreeted = errors.New("the client is connected")

// greeting is a conn as mochi sees it: one CONNECT packet comes, and what mochi
// answers goes out. Then it has an end, and mochi forgets it; the conn goes on.
type greeting struct {
	*conn
	connect []byte // what mochi has not read of it
}

func (g *greeting) Read(p []byte) (int, error) {
	if len(g.connect) == 0 {
		return 0, errGreeted
	}
	n := copy(p, g.connect)
	g.connect = g.connect[n:]
	return n, nil
}

// Close does nothing: who called mochi knows how it ended.
func (g *greeting) Close() error { return nil }

// SetDeadline does nothing: the conn keeps time.
func (g *greeting) SetDeadline(time.Time) error { return nil }

// greet has mochi read CONNECT, with our hook, and answer it. After an error the
// connection is of no use.
func (b *Broker) greet(c *conn, packet []byte) error {
	defer b.server.Clients.Delete(mochiID(c)) // mochi forgets it only on the straight way out
	err := b.server.EstablishConnection("mqtt", &greeting{conn: c, connect: packet})
	switch {
	case !errors.Is(err, errGreeted):
		return err
	case c.client == nil:
		return errEnded
	}
	b.established(c)
	return nil
}

// mochiID is unique to mochi, so that its own take-over never sees two of one name.
func mochiID(c *conn) string { return "#" + strconv.FormatInt(c.number, 10) }

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
		ClientNetReadBufferSize: 512,
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
	case mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnPacketRead, mochi.OnPacketEncode:
		return true
	}
	return false
}

// OnConnect decides about a CONNECT packet. mochi closes without CONNACK after
// an error, so refuse has sent it.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	return h.b.connect(cl.Net.Conn.(*greeting).conn, cl, &pk)
}

// OnConnectAuthenticate says yes: the certificate has spoken, and OnConnect.
func (h *hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

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

// OnPacketRead sees CONNECT only.
func (h *hook) OnPacketRead(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	return tolerate(cl.Net.Conn.(*greeting).conn, pk), nil
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

// OnPacketEncode completes CONNACK, which mochi fills in only in part.
func (h *hook) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type != packets.Connack {
		return pk
	}
	c := cl.Net.Conn.(*greeting).conn
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

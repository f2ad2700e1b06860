package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"groundswell/topics"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// errClientID means that a client calls itself what its certificate does not
// allow.
var errClientID = errors.New("client id does not belong to the certificate")

// connectParams is what a CONNECT packet asked for, as far as it was granted.
type connectParams struct {
	clean          bool          // forget the session that there may be
	expiry         time.Duration // of the session, after the connection ends
	expiryCapped   bool
	receiveMaximum uint16
	present        bool // a session was there
	will           *will
	version        byte   // of the protocol: 3, 4 or 5
	maxPacket      uint32 // that the client takes, in bytes; 0: any
	noProblems     bool   // no reasons in words, please
}

// connect decides about a CONNECT packet, and claims the session. A refusal was
// answered.
func (b *Broker) connect(c *conn, cl *mochi.Client, pk *packets.Packet) error {
	c.v5, c.sentID = pk.ProtocolVersion == 5, pk.Connect.ClientIdentifier
	cl.ID = mochiID(c)
	c.params.version, c.params.maxPacket = pk.ProtocolVersion, pk.Properties.MaximumPacketSize
	c.params.noProblems = pk.Properties.RequestProblemInfoFlag && pk.Properties.RequestProblemInfo == 0
	if err := b.room(c); err != nil {
		return err
	}
	refuse := func(code packets.Code, v3 byte, reason string, err error) error {
		b.audit(c, topics.RefusedConnect, reason, "", err)
		b.refuseConnect(c, code, v3)
		return code
	}
	c.clientID = pk.Connect.ClientIdentifier
	if c.lab {
		if err := labClientID(c, pk); err != nil {
			return refuse(packets.ErrClientIdentifierNotValid, 2, "client-id", err)
		}
	} else {
		if err := checkClientID(c.identity.Principal(), c.clientID); err != nil {
			return refuse(packets.ErrClientIdentifierNotValid, 2, "client-id", err)
		}
		if err := topics.Decide(c.identity.Principal(), topics.Subscribe, ownTopic(c.identity.Principal()), nil); err != nil {
			return refuse(packets.ErrNotAuthorized, 5, "principal", err)
		}
	}
	if pk.Properties.AuthenticationMethod != "" {
		return refuse(packets.ErrBadAuthenticationMethod, 5, "auth-method", errors.New("no authentication method is known"))
	}
	if err := b.staying(c); err != nil {
		return err
	}
	if c.emptyWill {
		pk.Connect.WillPayload = nil
	}
	var err error
	if c.params.will, err = b.willOf(c, pk); err != nil {
		return refuse(packets.ErrNotAuthorized, 5, "will", err)
	}
	b.grant(c, pk)
	// mochi is to forget this client when the connection ends.
	cl.Properties.Props.SessionExpiryInterval = 0
	cl.Properties.Clean = true
	cl.Properties.Will = mochi.Will{}
	// Zero and too long are both "longer than we allow".
	if keep := time.Duration(pk.Connect.Keepalive) * time.Second; c.v5 && (keep == 0 || keep > b.cfg.Limits.MaxKeepAlive) {
		cl.State.Keepalive = uint16(b.cfg.Limits.MaxKeepAlive / time.Second)
		cl.State.ServerKeepalive = true
	}
	if keep := b.cfg.Lab.ServerKeepAlive; c.lab && c.v5 && keep > 0 {
		cl.State.Keepalive, cl.State.ServerKeepalive = uint16(keep/time.Second), true
	}
	c.keep.Store(int64(cl.State.Keepalive))
	if err = b.take(c, c.clientID); errors.Is(err, errFlapping) {
		return refuse(packets.ErrConnectionRateExceeded, 3, "flapping", err)
	}
	if err != nil {
		b.notStored.warn(b.log, "a client cannot be taken", "client", clip(c.clientID), "err", err)
		b.refuseConnect(c, packets.ErrServerUnavailable, 3)
		return packets.ErrServerUnavailable
	}
	// To claim takes time: closeAll may have looked for connections before this one
	// was among them. Whoever is among them now is found here or there.
	return b.staying(c)
}

// staying refuses a client of a broker that is stopping.
func (b *Broker) staying(c *conn) error {
	if !b.stopping.Load() {
		return nil
	}
	c.because("shutdown")
	b.refuseConnect(c, packets.ErrServerShuttingDown, 3)
	return packets.ErrServerShuttingDown
}

// checkClientID compares the client id with the certificate: a device's must
// be its own id, a service's must be its name, alone or with a suffix.
func checkClientID(who topics.Principal, id string) error {
	ok := id == who.Name
	if who.Kind == topics.PrincipalService {
		ok = ok || (strings.HasPrefix(id, who.Name+"-") && len(id) <= 128)
	}
	if !ok {
		return fmt.Errorf("%w: %q for %s %q", errClientID, clip(id), who.Kind, who.Name)
	}
	return nil
}

// ownTopic is something that the principal may subscribe to if it has any
// business here.
func ownTopic(who topics.Principal) string {
	if who.Kind == topics.PrincipalDevice {
		return topics.DeviceAssignment(who.Name)
	}
	return topics.Uplink
}

// grant fills in the connection's parameters.
func (b *Broker) grant(c *conn, pk *packets.Packet) {
	p := &c.params
	p.clean = pk.Connect.Clean
	c.aliases.max = min(pk.Properties.TopicAliasMaximum, maxAliases)
	p.receiveMaximum = pk.Properties.ReceiveMaximum
	if p.receiveMaximum == 0 {
		p.receiveMaximum = 65535 // [MQTT-3.1.2-11.3]: absent
	}
	limit := b.cfg.Limits.MaxSessionExpiry
	switch {
	case !c.v5 && !pk.Connect.Clean:
		p.expiry = limit // 3.1.1 knows no end
		p.receiveMaximum = 1024
	case !c.v5:
		p.expiry = 0
		p.receiveMaximum = 1024
	default:
		p.expiry = time.Duration(pk.Properties.SessionExpiryInterval) * time.Second
		if p.expiry > limit {
			p.expiry, p.expiryCapped = limit, true
		}
	}
}

// refuseConnect sends CONNACK with a failure. mochi's own would send MQTT 5
// codes to 3.1.1 clients.
func (b *Broker) refuseConnect(c *conn, code packets.Code, v3 byte) {
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ReasonCode: code.Code}
	if c.v5 {
		ack.Properties.ReasonString = code.Reason
	} else {
		ack.ReasonCode = v3
	}
	_ = c.send(ack) // the connection ends in any case
	c.because("refused")
}

// established begins the traffic, after CONNACK.
func (b *Broker) established(c *conn) {
	b.metrics.connects.With("accepted").Inc()
	b.log.Debug("client connected", "client", c.client.id, "remote", c.remote, "v5", c.v5, "session_present", c.params.present)
	b.presence(c, true, "")
	b.begin(c)
	b.catchUp(c)
	// The list may have changed between the handshake and now, when nobody
	// knew of this connection.
	b.checkCertificate(c, time.Now(), true)
}

// farewell is DISCONNECT from the client.
func (b *Broker) farewell(c *conn, pk *packets.Packet) {
	if pk.Properties.SessionExpiryIntervalFlag {
		if pk.Properties.SessionExpiryInterval > 0 && c.params.expiry == 0 {
			c.disconnect(packets.ErrProtocolViolationZeroNonZeroExpiry, "protocol") // [MQTT-3.14.2-2]
			return
		}
		b.setExpiry(c, min(time.Duration(pk.Properties.SessionExpiryInterval)*time.Second, b.cfg.Limits.MaxSessionExpiry))
	}
	if pk.ReasonCode != packets.CodeDisconnectWillMessage.Code {
		b.cancelWill(c) // [MQTT-3.14.4-3]
	}
	c.because("client")
}

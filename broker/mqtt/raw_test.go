package mqtt

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"groundswell/certs"

	"github.com/mochi-mqtt/server/v2/packets"
)

// raw is a client that does what well-behaved libraries do not: pipeline,
// ignore, violate. It also speaks 3.1.1.
type raw struct {
	t       testing.TB
	conn    net.Conn
	in      *bufio.Reader
	version byte
	id      string           // where a test needs it
	early   []packets.Packet // messages that came before something else that was waited for
}

// rawDial makes the TLS connection only.
func (n *node) rawDial(credential certs.Credential, version byte) *raw {
	n.t.Helper()
	tlsConfig, err := certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: authority().Authority()}, certs.ServiceBroker)
	if err != nil {
		n.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", n.edge.Addr(), tlsConfig)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	return newRaw(n.t, conn, version)
}

func newRaw(t testing.TB, conn net.Conn, version byte) *raw {
	return &raw{t: t, conn: conn, in: bufio.NewReader(conn), version: version}
}

// rawConnect sends CONNECT and wants it accepted.
func (n *node) rawConnect(credential certs.Credential, version byte, clientID string, change func(*packets.Packet)) *raw {
	n.t.Helper()
	var r *raw
	n.unlessElecting(func() byte {
		r = n.rawDial(credential, version)
		ack := r.connect(clientID, change)
		if ack.ReasonCode != 0 && !n.electing(ack.ReasonCode) {
			n.t.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
		}
		return ack.ReasonCode
	})
	return r
}

func (r *raw) connect(clientID string, change func(*packets.Packet)) packets.Packet {
	r.t.Helper()
	r.knock(clientID, change)
	return r.expect(packets.Connack)
}

// knock sends a CONNECT.
func (r *raw) knock(clientID string, change func(*packets.Packet)) {
	r.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: clientID, Clean: true, Keepalive: 60,
	}}
	if r.version == 3 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	if change != nil {
		change(&pk)
	}
	r.send(pk)
}

func (r *raw) encode(pk packets.Packet) []byte {
	r.t.Helper()
	pk.ProtocolVersion, pk.Mods.AllowResponseInfo = r.version, true
	var buf bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&buf)
	case packets.Publish:
		err = pk.PublishEncode(&buf)
	case packets.Puback:
		err = pk.PubackEncode(&buf)
	case packets.Pubrel:
		err = pk.PubrelEncode(&buf)
	case packets.Pubrec:
		err = pk.PubrecEncode(&buf)
	case packets.Pubcomp:
		err = pk.PubcompEncode(&buf)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&buf)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&buf)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&buf)
	default:
		r.t.Fatalf("cannot encode type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return buf.Bytes()
}

func (r *raw) send(pk packets.Packet) {
	r.t.Helper()
	r.write(r.encode(pk))
}

func (r *raw) write(p []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(p); err != nil {
		r.t.Fatal(err)
	}
}

// read returns the next packet; io.EOF and the like when the broker has closed.
func (r *raw) read() (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: r.version}
	first, err := r.in.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(r.in); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
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
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	default:
		err = errors.New("unexpected type of packet")
	}
	return pk, err
}

// expect returns the next packet, which must be of that type.
func (r *raw) expect(kind byte) packets.Packet {
	r.t.Helper()
	return r.expectAny(kind)
}

// expectAny is expect for several types.
func (r *raw) expectAny(kinds ...byte) packets.Packet {
	r.t.Helper()
	pk, err := r.read()
	if err != nil {
		r.t.Fatalf("waiting for %s: %v", packets.PacketNames[kinds[0]], err)
	}
	if !slices.Contains(kinds, pk.FixedHeader.Type) {
		r.t.Fatalf("got %s 0x%02x %s, want %s", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode, pk.Properties.ReasonString, packets.PacketNames[kinds[0]])
	}
	return pk
}

// expectEnd wants the broker to close, after a DISCONNECT of that code if the
// client speaks MQTT 5.
func (r *raw) expectEnd(code byte) {
	r.t.Helper()
	if r.version == 5 {
		if pk := r.expect(packets.Disconnect); pk.ReasonCode != code {
			r.t.Fatalf("DISCONNECT 0x%02x, want 0x%02x", pk.ReasonCode, code)
		}
	}
	if pk, err := r.read(); err == nil {
		r.t.Fatalf("the connection goes on with %s", packets.PacketNames[pk.FixedHeader.Type])
	} else if isTimeout(err) {
		r.t.Fatal("the connection was not closed")
	}
}

// publication is a PUBLISH packet.
func publication(topic, payload string, qos byte, id uint16) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos},
		TopicName:   topic, Payload: []byte(payload), PacketID: id,
	}
}

func subscription(id uint16, filters ...string) packets.Packet {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: id}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: 1})
	}
	return pk
}

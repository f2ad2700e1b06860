package mqtt

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// cut writes in pieces, and calls between after each but the last.
type cut struct {
	net.Conn
	piece   int
	between func()
}

func (c *cut) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := c.Conn.Write(p[written:min(written+c.piece, len(p))])
		if written += n; err != nil || written == len(p) {
			return written, err
		}
		if c.between != nil {
			c.between()
		}
	}
}

// TestAnythingMayBeCutAnywhere: TLS records that come in pieces, packets that come in
// several records, several packets in one; the broker has read what was sent before
// the next piece comes.
func TestAnythingMayBeCutAnywhere(t *testing.T) {
	n := startNode(t)
	other := n.rawConnect(deviceCredential(t, "cam-2"), 5, "cam-2", nil)
	roundTrip := func() {
		other.send(subscription(1, topics.DeviceCommand("cam-2")))
		other.expect(packets.Suback)
	}
	config, err := certs.ClientTLS(certs.TLSOptions{Credential: deviceCredential(t, "cam-1"), Authority: authority().Authority()}, certs.ServiceBroker)
	if err != nil {
		t.Fatal(err)
	}
	config = config.Clone()
	config.ServerName = "127.0.0.1"
	tcp := &cut{Conn: dialTCP(t, n.edge.Addr()), piece: 1 << 20}
	records := tls.Client(tcp, config)
	_ = records.SetReadDeadline(time.Now().Add(patience))
	stream := &cut{Conn: records, piece: 1 << 20}
	r := newRaw(t, stream, 5)

	tcp.piece, tcp.between = 300, roundTrip // handshake and CONNECT, too
	if ack := r.connect("cam-1", nil); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
	}
	status := topics.DeviceStatus("cam-1")
	for _, size := range []struct{ record, packet int }{{7, 1 << 20}, {1 << 20, 7}, {11, 13}} {
		tcp.piece, stream.piece = size.record, size.packet
		tcp.between, stream.between = roundTrip, roundTrip
		r.write(append(r.encode(publication(status, "a", 1, 1)), r.encode(publication(status, "b", 1, 2))...))
		for id := range uint16(2) {
			if ack := r.expect(packets.Puback); ack.PacketID != id+1 || ack.ReasonCode != 0 {
				t.Fatalf("PUBACK of %d 0x%02x", ack.PacketID, ack.ReasonCode)
			}
		}
	}
	// Far more than is read at once, and every size of what is left over.
	tcp.piece, stream.piece = 1<<20, 5000
	log := topics.DeviceLog("cam-1")
	for _, size := range []int{4 << 10, 20 << 10, 60 << 10} {
		r.send(publication(log, strings.Repeat("x", size), 1, 3))
		if ack := r.expect(packets.Puback); ack.ReasonCode != 0 {
			t.Fatalf("PUBACK 0x%02x for %d bytes", ack.ReasonCode, size)
		}
	}
}

// TestWhatCameWithTheLastHandshakeIsRead: CONNECT, and more, before the broker waits
// for the first time.
func TestWhatCameWithTheLastHandshakeIsRead(t *testing.T) {
	n := startNode(t)
	r := n.rawDial(deviceCredential(t, "cam-1"), 4)
	connect := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "cam-1", Clean: true, Keepalive: 60,
	}}
	r.write(append(r.encode(connect), r.encode(publication(topics.DeviceStatus("cam-1"), "x", 1, 9))...))
	r.expect(packets.Connack)
	if ack := r.expect(packets.Puback); ack.PacketID != 9 {
		t.Errorf("PUBACK of %d", ack.PacketID)
	}
}

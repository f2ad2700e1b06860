package mqtt

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// trickle sends the bytes of what never ends one by one, until the broker has
// closed the connection.
func trickle(t *testing.T, conn net.Conn, begin ...byte) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		next := []byte{0}
		if len(begin) > 0 {
			next, begin = begin[:1], begin[1:]
		}
		select {
		case err := <-ended:
			if isTimeout(err) {
				t.Error("not closed")
			}
			return
		case <-tick.C:
			_, _ = conn.Write(next) // may be closed
		}
	}
}

// TestByteByByteIsNotInTime: what comes does not move a deadline until it is a
// whole packet.
func TestByteByByteIsNotInTime(t *testing.T) {
	t.Parallel()
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.ConnectTimeout = soon }))
	credential := deviceCredential(t, "cam-1")
	longConnect := []byte{0x10, 0xd0, 0x86, 0x03, 0, 4, 'M', 'Q', 'T', 'T', 5} // 50 kB
	trickle(t, n.rawDial(credential, 5).conn, longConnect...)
	trickle(t, n.webDial(credential, 5).conn, longConnect...)
	r := n.rawConnect(credential, 5, "cam-1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	trickle(t, r.conn, 0x30, 0xd0, 0x86, 0x03)
	eventually(t, "its end counted", func() bool { return n.metric(`broker_disconnects_total{reason="keepalive"}`) == 1 })

	for begin, dial := range map[string]func() net.Conn{
		"\x16\x03\x01\x10\x00": func() net.Conn { return dialTCP(t, n.edge.Addr()) }, // a record of TLS
		"GET / HTTP/1.1\r\nX: ": func() net.Conn {
			conn, err := tls.Dial("tcp", n.edge.WebsocketAddr(), n.config(credential, "").TLS)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		},
	} {
		conn := dial() // now: its time runs
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		trickle(t, conn, []byte(begin)...)
		_ = conn.Close()
	}
	eventually(t, "the handshakes counted", func() bool {
		return n.metric(`broker_handshakes_failed_total{reason="timeout"}`) == 2
	})
}

func dialTCP(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestRetainedMessagesForOneWhoDoesNotRead: it is closed as too slow, and counted
// once; who reads gets all, and devices go on.
func TestRetainedMessagesForOneWhoDoesNotRead(t *testing.T) {
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.WriteTimeout = 2 * time.Second }))
	fleetd, dev := n.fleetd("fleetd"), n.device("cam-1")
	big := strings.Repeat("x", topics.MaxManifest)
	const total = 600 // 10 MB: more than sockets and the buffer take
	for i := range total {
		fleetd.mustRetain(topics.CohortManifest(fmt.Sprintf("c%d", i)), 1, big)
	}
	credential := serviceCredential(t, "fleetd")
	for i, r := range []*raw{n.rawDial(credential, 5), n.webDial(credential, 5)} {
		r.connect(fmt.Sprintf("fleetd-deaf-%d", i), nil)
		r.send(subscription(1, topics.AllManifests))
	}
	reader := n.fleetd("fleetd-reader")
	reader.subscribe(topics.AllManifests)
	for range total {
		reader.next()
		if len(reader.received) == 0 {
			dev.publish(topics.DeviceStatus("cam-1"), "x")
		}
	}
	eventually(t, "both closed", func() bool { return n.metric(`broker_disconnects_total{reason="slow"}`) == 2 })
	if got := n.metric("broker_slow_readers_closed_total"); got != 2 {
		t.Errorf("%v counted", got)
	}
	dev.publish(topics.DeviceStatus("cam-1"), "x")
	eventually(t, "three connections to be left", func() bool { c, _ := n.edge.counts(); return c == 3 })
}

// TestHalfOpenConnectionsHinderNobody: hundreds that say nothing, or half of
// something, while a device publishes and others come.
func TestHalfOpenConnectionsHinderNobody(t *testing.T) {
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.ConnectTimeout = 5 * time.Minute }))
	dev := n.device("cam-1")
	stop, published := make(chan struct{}), make(chan int, 1)
	go func() {
		count := 0
		defer func() { published <- count }()
		for ; ; count++ {
			select {
			case <-stop:
				return
			default:
			}
			err := dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: []byte("x"), QoS: 1})
			if err != nil {
				t.Errorf("publish: %v", err)
				return
			}
		}
	}()
	const half = 500
	var open []net.Conn
	secure := n.config(deviceCredential(t, "cam-2"), "").TLS
	for i := range half {
		address := n.edge.Addr()
		if i%2 == 0 {
			address = n.edge.WebsocketAddr()
		}
		conn := dialTCP(t, address)
		switch i % 5 {
		case 0: // not a byte
		case 1, 2: // a part of a handshake
			_, _ = conn.Write([]byte{0x16, 0x03, 0x01, 0x10, 0x00, 0x01})
		case 3: // TLS, and nothing in it
			if err := tls.Client(conn, secure).Handshake(); err != nil {
				t.Fatal(err)
			}
		case 4: // half a CONNECT, or no HTTP
			if _, err := tls.Client(conn, secure).Write([]byte{0x10, 0x20, 0, 4, 'M'}); err != nil {
				t.Fatal(err)
			}
		}
		open = append(open, conn)
		if i%50 == 0 {
			n.device(fmt.Sprintf("guest-%d", i)).Close()
		}
	}
	eventually(t, "all of them at once", func() bool { return n.edge.gate.open.Load() > half })
	n.device("cam-3").publish(topics.DeviceStatus("cam-3"), "x")
	close(stop)
	if count := <-published; count == 0 {
		t.Error("nothing was published meanwhile")
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	eventually(t, "their ends", func() bool { return n.edge.gate.open.Load() <= 3 })
}

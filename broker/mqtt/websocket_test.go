package mqtt

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
)

// TestWebSocketLeadsToTheSameBroker: what is published over it arrives
// elsewhere, and a client id has one connection, whichever way it came.
func TestWebSocketLeadsToTheSameBroker(t *testing.T) {
	n := startNode(t, withWebsocket)
	fleetd := n.fleetd("fleetd")
	fleetd.subscribe(topics.Uplink)
	credential := deviceCredential(t, "cam-1")
	for _, version := range []byte{5, 4} {
		web := n.webDial(credential, version)
		web.connect("cam-1", nil)
		web.send(subscription(1, topics.DeviceCommand("cam-1")))
		web.expect(packets.Suback)
		web.send(publication(topics.DeviceStatus("cam-1"), "over the web", 1, 2))
		web.expect(packets.Puback)
		if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != "over the web" {
			t.Errorf("got %q", m.Payload)
		}
		fleetd.publish(topics.DeviceCommand("cam-1"), strings.Repeat("x", 8000))
		if pk := web.expect(packets.Publish); len(pk.Payload) != 8000 {
			t.Errorf("got %d bytes", len(pk.Payload))
		}
		direct := n.rawConnect(credential, 5, "cam-1", nil)
		web.expectEnd(0x8E)
		again := n.webDial(credential, 5)
		again.connect("cam-1", nil)
		direct.expectEnd(0x8E)
	}
}

// TestWebSocketAsksForTheSameCertificates: nobody gets as far as HTTP without
// one, and the client id must be the certificate's.
func TestWebSocketAsksForTheSameCertificates(t *testing.T) {
	n := startNode(t, withWebsocket)
	stolen := deviceCredential(t, "cam-9")
	n.revoke(2, certs.Revocation{Serial: stolen.Certificate.SerialNumber, At: time.Now()})
	good := n.config(deviceCredential(t, "cam-1"), "").TLS
	anonymous := good.Clone()
	anonymous.Certificates = nil
	old := good.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	mqtt := []string{"mqtt"}
	eventually(t, "the revocation list to be read", func() bool {
		_, status, err := n.webTry(n.config(stolen, "").TLS, mqtt, nil)
		return err != nil && status == 0
	})
	for name, config := range map[string]*tls.Config{"without a certificate": anonymous, "TLS 1.2": old} {
		if _, status, err := n.webTry(config, mqtt, nil); err == nil || status != 0 {
			t.Errorf("%s: status %d, %v", name, status, err)
		}
	}
	if ack := n.webDial(deviceCredential(t, "cam-1"), 5).connect("cam-2", nil); ack.ReasonCode != 0x85 {
		t.Errorf("another's client id: 0x%02x", ack.ReasonCode)
	}
}

// TestWebSocketRequestsThatAreRefused includes pages from elsewhere, which a
// browser would send with the user's certificate.
func TestWebSocketRequestsThatAreRefused(t *testing.T) {
	n := startNode(t, withWebsocket)
	config := n.config(deviceCredential(t, "cam-1"), "").TLS
	for _, c := range []struct {
		name         string
		subprotocols []string
		origin       string
		want         int
	}{
		{"no subprotocol [MQTT-6.0.0-3]", nil, "", http.StatusBadRequest},
		{"another subprotocol", []string{"mqttv3.1", "chat"}, "", http.StatusBadRequest},
		{"a page from elsewhere", []string{"mqtt"}, "https://evil.test", http.StatusForbidden},
		{"a page without a host", []string{"mqtt"}, "null", http.StatusForbidden},
		{"a page from here", []string{"mqtt"}, "https://" + n.edge.WebsocketAddr(), http.StatusSwitchingProtocols},
		{"no page", []string{"mqtt"}, "", http.StatusSwitchingProtocols},
	} {
		header := http.Header{}
		if c.origin != "" {
			header.Set("Origin", c.origin)
		}
		if _, status, err := n.webTry(config, c.subprotocols, header); status != c.want {
			t.Errorf("%s: status %d, %v; want %d", c.name, status, err, c.want)
		}
	}
	for name, request := range map[string]string{
		"no WebSocket":       "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
		"no HTTP":            "hello\r\n\r\n",
		"MQTT":               "\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00\x00\x00\x00\r\n",
		"an endless request": "GET / HTTP/1.1\r\n" + strings.Repeat("X-Header: of twenty-nine bytes\r\n", 1000),
		"bytes that came early": "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\nearly",
	} {
		conn, err := tls.Dial("tcp", n.edge.WebsocketAddr(), config)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, request) // may be cut off
		answer, err := io.ReadAll(conn)
		if isTimeout(err) || strings.Contains(string(answer), " 101 ") {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
		_ = conn.Close()
	}
	if got := n.metric(`broker_handshakes_failed_total{reason="origin"}`); got != 2 {
		t.Errorf("%v pages from elsewhere counted", got)
	}
	if got := n.metric(`broker_handshakes_failed_total{reason="upgrade"}`); got != 7 {
		t.Errorf("%v bad requests counted", got)
	}
}

// TestWebSocketTextEndsTheConnection [MQTT-6.0.0-1]; so does what is no frame.
func TestWebSocketTextEndsTheConnection(t *testing.T) {
	n := startNode(t, withWebsocket)
	credential := deviceCredential(t, "cam-1")
	for _, connected := range []bool{true, false} {
		for name, c := range map[string]struct {
			send func(*webConn) error
			want int
		}{
			"text":           {func(w *webConn) error { return w.ws.WriteMessage(websocket.TextMessage, []byte{0xc0, 0}) }, websocket.CloseUnsupportedData},
			"without a mask": {func(w *webConn) error { _, err := w.Conn.Write([]byte{0x82, 2, 0xc0, 0}); return err }, websocket.CloseProtocolError},
		} {
			r := n.webDial(credential, 5)
			if connected {
				r.connect("cam-1", nil)
			}
			if err := c.send(r.web()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.in.ReadByte(); !websocket.IsCloseError(err, c.want) {
				t.Errorf("%s, connected %v: %v", name, connected, err)
			}
		}
	}
	eventually(t, "the reason counted", func() bool { return n.metric(`broker_refused_total{action="packet",reason="websocket"}`) == 4 })
}

// TestWebSocketPacketsSpanFrames [MQTT-6.0.0-2]: a frame may hold a byte of a
// packet or many packets; messages may be fragmented, with pings in between.
func TestWebSocketPacketsSpanFrames(t *testing.T) {
	n := startNode(t, withWebsocket)
	r := n.webDial(deviceCredential(t, "cam-1"), 5)
	pongs := make(chan string, 100)
	r.web().ws.SetPongHandler(func(data string) error { pongs <- data; return nil })
	connect := r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "cam-1", Clean: true, Keepalive: 60,
	}})
	for i := range connect {
		r.write(connect[i : i+1])
		r.write(nil)
	}
	if ack := r.expect(packets.Connack); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
	}
	var many []byte
	for id := range uint16(50) {
		many = append(many, r.encode(publication(topics.DeviceStatus("cam-1"), strings.Repeat("x", 200), 1, id+1))...)
	}
	r.write(many)
	for range 50 {
		r.expect(packets.Puback)
	}
	message, err := r.web().ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := message.Write(many); err != nil { // longer than its buffer: several frames
		t.Fatal(err)
	}
	if err := r.web().ws.WriteControl(websocket.PingMessage, []byte("amid"), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := message.Close(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		r.expect(packets.Puback)
	}
	if data := <-pongs; data != "amid" {
		t.Errorf("pong %q", data)
	}
}

// frameOf is the header of one masked binary frame that claims to be so long,
// with the first bytes of it; the mask changes nothing.
func frameOf(length uint64, first []byte) []byte {
	header := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, length)
	return append(append(header, 0, 0, 0, 0), first...)
}

// TestWebSocketFrameIsNotAwaited: what a frame holds is taken as it comes, though
// the frame claims to be without end; and the limit of a packet holds in it.
func TestWebSocketFrameIsNotAwaited(t *testing.T) {
	n := startNode(t, withWebsocket)
	r := n.webDial(deviceCredential(t, "cam-1"), 5)
	connect := r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: "cam-1", Clean: true, Keepalive: 60,
	}})
	conn := r.web().Conn
	if _, err := conn.Write(frameOf(1<<62, connect)); err != nil {
		t.Fatal(err)
	}
	if ack := r.expect(packets.Connack); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
	}
	if _, err := conn.Write([]byte{0x32, 0x80, 0x80, 0x80, 0x64}); err != nil { // a packet of 200 MB
		t.Fatal(err)
	}
	r.expectEnd(0x95)
}

// TestWebSocketSilenceIsClosed: the deadlines are those of TCP, and pings of the
// WebSocket do not move them.
func TestWebSocketSilenceIsClosed(t *testing.T) {
	t.Parallel()
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.ConnectTimeout = soon }))
	credential := deviceCredential(t, "cam-1")
	silent, err := tls.Dial("tcp", n.edge.WebsocketAddr(), n.config(credential, "").TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_ = silent.SetReadDeadline(time.Now().Add(patience))
	if _, err := silent.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("without a request: %v", err)
	}
	pinging := func(r *raw) {
		t.Helper()
		ended := make(chan error, 1)
		go func() {
			_, err := r.read()
			ended <- err
		}()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case err := <-ended:
				if err == nil || isTimeout(err) {
					t.Errorf("%v", err)
				}
				return
			case <-tick.C:
				_ = r.web().ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)) // may be closed
			}
		}
	}
	pinging(n.webDial(credential, 5))
	r := n.webDial(credential, 5)
	r.connect("cam-1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	pinging(r)
}

// TestWebSocketThatDoesNotReadIsClosed: also pongs wait in the bounded buffer.
func TestWebSocketThatDoesNotReadIsClosed(t *testing.T) {
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.WriteBuffer, l.WriteTimeout = 64<<10, time.Hour }))
	r := n.webDial(deviceCredential(t, "cam-1"), 5)
	r.connect("cam-1", nil)
	for {
		if err := r.web().ws.WriteControl(websocket.PingMessage, make([]byte, 125), time.Now().Add(patience)); err != nil {
			break
		}
	}
	eventually(t, "it counted", func() bool { return n.metric("broker_slow_readers_closed_total") == 1 })
}

func TestWebSocketStopSaysGoodbye(t *testing.T) {
	n := startNode(t, withWebsocket)
	r := n.webDial(deviceCredential(t, "cam-1"), 5)
	r.connect("cam-1", nil)
	go n.stop()
	if pk := r.expect(packets.Disconnect); pk.ReasonCode != 0x8B {
		t.Errorf("DISCONNECT 0x%02x", pk.ReasonCode)
	}
	if _, err := r.in.ReadByte(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("the WebSocket ended with %v", err)
	}
	n.stop()
}

func TestWebsocketListenIsChecked(t *testing.T) {
	cfg := Config{Node: "node-1", TrustDomain: domain, Listen: ":0", Limits: DefaultLimits(), WebsocketListen: "nowhere"}
	if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), "websocket_listen: ") {
		t.Errorf("got %v", err)
	}
}

package mqtt

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/internal/mqttclient"

	"golang.org/x/time/rate"
)

// turnedAway wants a device's CONNECT refused with that code, and 3.1.1's with 3.
func (n *node) turnedAway(id string, code byte) {
	n.t.Helper()
	credential := deviceCredential(n.t, id)
	for version, want := range map[byte]byte{5: code, 4: 3} {
		r := n.rawDial(credential, version)
		if ack := r.connect(id, nil); ack.ReasonCode != want || ack.SessionPresent {
			n.t.Errorf("version %d: CONNACK 0x%02x, want 0x%02x", version, ack.ReasonCode, want)
		}
		if _, err := r.read(); err == nil || isTimeout(err) {
			n.t.Errorf("version %d: not closed: %v", version, err)
		}
	}
}

// TestDevicesAboveTheLimitAreToldSo: at the limit a device learns why it is
// turned away, one that comes again replaces its old connection, and services
// are let in.
func TestDevicesAboveTheLimitAreToldSo(t *testing.T) {
	n := startNode(t, withWebsocket, withLimits(func(l *Limits) { l.MaxConnections = 1 }))
	n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	n.turnedAway("cam-2", 0x97)
	if ack := n.webDial(deviceCredential(t, "cam-2"), 5).connect("cam-2", nil); ack.ReasonCode != 0x97 {
		t.Errorf("over WebSocket: CONNACK 0x%02x", ack.ReasonCode)
	}
	if got := n.metric(`broker_refused_total{action="connect",reason="limit"}`); got != 3 {
		t.Errorf("%v refusals counted", got)
	}
	again := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	fleetd := n.fleetd("fleetd")
	fleetd.Close()
	_ = again.conn.Close()
	eventually(t, "room again", func() bool {
		r := n.rawDial(deviceCredential(t, "cam-2"), 5)
		defer r.conn.Close()
		return r.connect("cam-2", nil).ReasonCode == 0
	})
}

// TestBeyondTheReserveConnectionsAreClosed: who only holds connections open does
// not make the broker hold ever more.
func TestBeyondTheReserveConnectionsAreClosed(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.MaxConnections, l.ConnectTimeout = 1, 5*time.Minute }))
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", n.edge.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		return conn
	}
	for range 1 + reserve {
		dial()
	}
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one more: %v", err)
	}
	if got := n.metric(`broker_handshakes_failed_total{reason="limit"}`); got != 1 {
		t.Errorf("%v counted", got)
	}
}

// TestConnectsAboveTheRateAreToldSo; services have no rate.
func TestConnectsAboveTheRateAreToldSo(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.ConnectsPerSecond = 1 }))
	n.edge.gate.connects.SetLimit(rate.Every(time.Hour)) // one is there
	n.device("cam-1")
	n.turnedAway("cam-2", 0x9F)
	n.turnedAway("cam-1", 0x9F) // whose first connection lives on:
	n.fleetd("fleetd")
	if conns, _ := n.edge.counts(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
	if got := n.metric(`broker_refused_total{action="connect",reason="rate"}`); got != 4 {
		t.Errorf("%v refusals counted", got)
	}
	n.edge.gate.connects.SetLimit(rate.Inf)
	n.device("cam-2")
}

// TestHandshakesAboveThePaceWait, but not for longer than a client would.
func TestHandshakesAboveThePaceWait(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.HandshakesPerSecond = 20 }))
	var wg sync.WaitGroup
	for i := range 8 { // two at once, the others after one another
		wg.Go(func() {
			id := fmt.Sprint("fleetd-", i) // with one id the second would end the first
			s, err := mqttclient.Dial(t.Context(), n.config(serviceCredential(t, "fleetd"), id))
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
	n.edge.gate.pace.SetLimit(rate.Every(time.Hour))
	eventually(t, "one that would wait for an hour refused", func() bool {
		s, err := mqttclient.Dial(t.Context(), n.config(serviceCredential(t, "fleetd"), "fleetd"))
		if err == nil {
			s.Close()
		}
		return err != nil
	})
	if got := n.metric(`broker_handshakes_failed_total{reason="pace"}`); got != 1 {
		t.Errorf("%v counted", got)
	}
}

func TestConnectsPerSecondIsChecked(t *testing.T) {
	limits := DefaultLimits()
	limits.ConnectsPerSecond = -1
	if err := limits.Validate(); err == nil || !strings.HasPrefix(err.Error(), "connects_per_second: ") {
		t.Errorf("got %v", err)
	}
}

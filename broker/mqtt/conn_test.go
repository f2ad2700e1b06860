package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/broker/session"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// TestOversizedPacketEndsTheConnectionBeforeItIsBuffered sends only the header
// of a packet of 200 MB: mochi would make room for it at once.
func TestOversizedPacketEndsTheConnectionBeforeItIsBuffered(t *testing.T) {
	n := startNode(t)
	header := []byte{0x32, 0x80, 0x80, 0x80, 0x64}
	r := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.write(header)
	r.expectEnd(0x95)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 50<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	// Behind a good packet, in one write.
	r = n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	r.write(append(r.encode(publication(topics.DeviceStatus("cam-1"), "x", 1, 1)), header...))
	for {
		pk, err := r.read()
		if err != nil {
			t.Fatal(err)
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			if pk.ReasonCode != 0x95 {
				t.Fatalf("0x%02x", pk.ReasonCode)
			}
			break
		}
	}
	// And as the first packet.
	r = n.rawDial(deviceCredential(t, "cam-1"), 5)
	r.write([]byte{0x10, 0xff, 0xff, 0xff, 0x7f})
	if _, err := r.read(); err == nil || isTimeout(err) {
		t.Fatalf("not closed: %v", err)
	}
}

func TestLimitsAreAnnounced(t *testing.T) {
	n := startNode(t)
	r := n.rawDial(deviceCredential(t, "cam-1"), 5)
	ack := r.connect("cam-1", func(pk *packets.Packet) {
		pk.Connect.Keepalive = 65535 // mochi's arithmetic overflows on it (B12)
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 1<<32-1, true
	})
	p := ack.Properties
	if p.MaximumPacketSize != topics.MaxPacket || p.ReceiveMaximum != 1024 || p.ServerKeepAlive != 1200 || p.SessionExpiryInterval != 7*24*3600 {
		t.Errorf("got %+v", p)
	}
	r.send(publication(topics.DeviceStatus("cam-1"), "x", 1, 1))
	r.expect(packets.Puback)
}

// TestMalformedPacketsCostOnlyTheirConnection includes those on which mochi's
// decoder panics.
func TestMalformedPacketsCostOnlyTheirConnection(t *testing.T) {
	n := startNode(t)
	witness := n.device("witness")
	for name, bad := range map[string][]byte{
		"SUBSCRIBE without options":    {0x82, 6, 0, 1, 0, 0, 1, 'a'},
		"five length bytes":            {0x30, 0x80, 0x80, 0x80, 0x80, 0x01},
		"PUBLISH with QoS 3":           {0x36, 2, 0, 0},
		"second CONNECT":               {0x10, 0},
		"PUBLISH with a wildcard":      {0x30, 4, 0, 1, '#', 0},
		"PUBLISH with bad UTF-8":       {0x30, 4, 0, 1, 0xff, 0},
		"SUBSCRIBE with wrong flags":   {0x80, 2, 0, 1},
		"AUTH without a method":        {0xf0, 2, 0x18, 0},
		"PUBLISH with packet id 0":     {0x32, 6, 0, 1, 'a', 0, 0, 0},
		"an alias above the maximum":   {0x30, 7, 0, 1, 'a', 3, 0x23, 0, maxAliases + 1},
		"an alias of no topic":         {0x30, 6, 0, 0, 3, 0x23, 0, 1},
		"reserved type":                {0x00, 0},
		"SUBSCRIBE without any filter": {0x82, 3, 0, 1, 0},
		"CONNACK from a client":        {0x20, 3, 0, 0, 0},
	} {
		r := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
		r.write(bad)
		for {
			pk, err := r.read()
			if err == nil && pk.FixedHeader.Type == packets.Disconnect {
				continue
			}
			if err == nil || isTimeout(err) {
				t.Errorf("%s: the connection goes on (%v)", name, err)
			}
			break
		}
	}
	witness.publish(topics.DeviceStatus("witness"), "still here")
}

func TestSilentConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	n := startNode(t, withLimits(func(l *Limits) { l.ConnectTimeout = soon }))
	r := n.rawDial(deviceCredential(t, "cam-1"), 5) // no CONNECT
	if _, err := r.read(); err == nil || isTimeout(err) {
		t.Errorf("without CONNECT: %v", err)
	}
	r = n.rawDial(deviceCredential(t, "cam-1"), 5)
	r.connect("cam-1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	if _, err := r.read(); err == nil || isTimeout(err) {
		t.Errorf("keep-alive: %v", err)
	}
}

// poison connects a member of fleetd that subscribes to everything and reads
// nothing.
func (n *node) poison() {
	n.t.Helper()
	r := n.rawConnect(serviceCredential(n.t, "fleetd"), 5, "fleetd-poison", nil)
	r.send(subscription(1, topics.AllManifests, "fleet/v1/devices/+/log", registry))
	r.expect(packets.Suback)
}

// TestClientThatDoesNotReadBlocksNobody: with mochi alone one such subscriber
// stops every publisher (B06). The broker's patience with it is without end
// here, so that only its not blocking helps the others.
func TestClientThatDoesNotReadBlocksNobody(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.WriteTimeout = time.Hour }))
	n.poison()
	reader := n.fleetd("fleetd-reader")
	reader.subscribe(topics.AllManifests)
	fleetd := n.fleetd("fleetd")
	dev := n.device("cam-1")
	big := strings.Repeat("x", topics.MaxManifest)
	const total = 800 // 13 MB: more than sockets and queues take
	for i := range total {
		fleetd.mustRetain(topics.CohortManifest(fmt.Sprintf("c%d", i)), 1, big)
		if i%50 == 0 {
			dev.publish(topics.DeviceStatus("cam-1"), "x")
		}
	}
	for range total {
		reader.next()
	}
}

func TestClientThatDoesNotReadIsClosedAndItsMessagesGoToAnother(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.WriteTimeout = 3 * time.Second })) // for who reads, too, on a busy machine
	n.poison()
	dev := n.device("cam-1")
	dev.publish(topics.DeviceStatus("cam-1"), "x")
	big := strings.Repeat("x", topics.MaxLog)
	for range 150 { // 10 MB
		dev.publish(topics.DeviceLog("cam-1"), big)
	}
	eventually(t, "the slow reader closed", func() bool {
		n.edge.mu.Lock()
		defer n.edge.mu.Unlock()
		for c := range n.edge.conns {
			if c.client.id == "fleetd-poison" {
				return false
			}
		}
		return true
	})
	heir := n.fleetd("fleetd-heir")
	heir.subscribe(registry)
	seen := map[string]int{}
	for seen[topics.DeviceStatus("cam-1")] == 0 || seen[topics.DeviceLog("cam-1")] < 150 {
		seen[heir.next().Topic]++
	}
}

// TestLateAcknowledgementOfAnOldConnectionCountsForNothing: the new one may
// have used the id for something else.
func TestLateAcknowledgementOfAnOldConnectionCountsForNothing(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	connect := func() *conn {
		n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil).send(subscription(1, topics.DeviceCommand("cam-1")))
		var c *conn
		eventually(t, "the subscription", func() bool {
			hits := n.edge.fleet.match(session.Message{Topic: topics.DeviceCommand("cam-1")})
			if len(hits) == 0 {
				return false
			}
			hits[0].Subscriber.mu.Lock()
			defer hits[0].Subscriber.mu.Unlock()
			c = hits[0].Subscriber.conn
			return true
		})
		return c
	}
	old := connect()
	var current *conn
	for current = connect(); current == old; current = connect() {
	}
	fleetd.publish(topics.DeviceCommand("cam-1"), "x")
	inFlight := func() int {
		current.client.mu.Lock()
		defer current.client.mu.Unlock()
		return current.client.session.InFlight()
	}
	eventually(t, "the command under way", func() bool { return inFlight() == 1 })
	for id := range uint16(10) {
		n.edge.acknowledged(old, id, 0)
	}
	if got := inFlight(); got != 1 {
		t.Fatalf("%d under way: the old connection has acknowledged it", got)
	}
}

// TestTakeOverLeavesOneOwner: many connections claim one client id at once
// (B14). Exactly one lives on, and it works.
func TestTakeOverLeavesOneOwner(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	credential := deviceCredential(t, "cam-1")
	for round := range 15 {
		var wg sync.WaitGroup
		claims := make(chan *raw, 6)
		for range cap(claims) {
			r := n.rawDial(credential, 5)
			wg.Go(func() {
				r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
					ProtocolName: []byte("MQTT"), ClientIdentifier: "cam-1", Keepalive: 60,
				}, Properties: packets.Properties{SessionExpiryInterval: 60, SessionExpiryIntervalFlag: true}})
				claims <- r
			})
		}
		wg.Wait()
		close(claims)
		alive := make(chan *raw, cap(claims))
		var readers, settled sync.WaitGroup
		for r := range claims {
			settled.Add(1)
			readers.Go(func() {
				pk, err := r.read()
				settled.Done()
				if err != nil {
					return // overtaken before its CONNACK
				}
				if pk.FixedHeader.Type != packets.Connack {
					t.Errorf("%s before CONNACK", packets.PacketNames[pk.FixedHeader.Type])
				}
				// The one that is left subscribes and gets what is published.
				if _, err := r.conn.Write(r.encode(subscription(1, topics.DeviceCommand("cam-1")))); err != nil {
					return
				}
				for {
					pk, err := r.read()
					if err != nil {
						return
					}
					if pk.FixedHeader.Type == packets.Publish && string(pk.Payload) == fmt.Sprint(round) {
						alive <- r
						return
					}
				}
			})
		}
		settled.Wait()
		eventually(t, "one owner", func() bool { c, _ := n.edge.counts(); return c == 2 })
		eventually(t, "the owner's subscription", func() bool {
			return len(n.edge.fleet.match(session.Message{Topic: topics.DeviceCommand("cam-1")})) == 1
		})
		if err := fleetd.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceCommand("cam-1"), Payload: fmt.Append(nil, round), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		readers.Wait()
		if len(alive) != 1 {
			t.Fatalf("round %d: %d owners got the command", round, len(alive))
		}
		_ = (<-alive).conn.Close()
		eventually(t, "nobody", func() bool { c, _ := n.edge.counts(); return c == 1 })
	}
}

// TestStopSaysGoodbye: clients learn that they should come back.
func TestStopSaysGoodbye(t *testing.T) {
	n := startNode(t)
	r := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	go n.stop()
	r.expectEnd(0x8B)
	n.stop()
}

// TestStopDoesNotWaitForWhoConnectsMeanwhile: a client whose session is being
// claimed when the broker says its goodbyes is refused, and nothing of it stays.
func TestStopDoesNotWaitForWhoConnectsMeanwhile(t *testing.T) {
	n := startNode(t)
	turn := make(chan struct{}, 1)
	turn <- struct{}{} // as a store that is slow to answer
	n.edge.mu.Lock()
	n.edge.claims["cam-1"] = &claiming{turn: turn, connections: 1}
	n.edge.mu.Unlock()
	r := n.rawDial(deviceCredential(t, "cam-1"), 5)
	r.knock("cam-1", func(pk *packets.Packet) {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
	})
	eventually(t, "the claim to wait", func() bool {
		n.edge.mu.Lock()
		defer n.edge.mu.Unlock()
		return n.edge.claims["cam-1"].connections == 2
	})
	stopped := make(chan struct{})
	go func() { defer close(stopped); n.stop() }()
	eventually(t, "the goodbyes", n.edge.stopping.Load)
	<-turn
	if ack := r.expect(packets.Connack); ack.ReasonCode != 0x8B {
		t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("the broker waits for the client")
	}
	if ends := n.metric(`broker_disconnects_total{reason="shutdown"}`); ends != 1 {
		t.Errorf("%v connections ended with the broker", ends)
	}
	n.start()
	if claim, err := n.stored.Lookup(t.Context(), "cam-1"); err != nil || claim.Connected {
		t.Errorf("after all: %+v, %v", claim, err)
	}
}

// TestNothingIsLeftRunning: when Run has returned, so has everything.
func TestNothingIsLeftRunning(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	dev.publish(topics.DeviceStatus("cam-1"), "x")
	n.fleetd("fleetd").subscribe(registry, topics.AllManifests)
	n.stop()
	eventually(t, "our goroutines ended", func() bool {
		buf := make([]byte, 4<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "mqtt.(*conn)") && !strings.Contains(stacks, "mqtt.(*group)") &&
			!strings.Contains(stacks, "server.(*Server)")
	})
}

func FuzzFraming(f *testing.F) {
	f.Add([]byte{0x30, 2, 0, 0, 0xc0, 0}, 3)
	f.Add([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}, 1)
	f.Add([]byte{0x30, 0xff, 0xff, 0x03, 1, 2, 3}, 2)
	f.Fuzz(func(t *testing.T, stream []byte, chunk int) {
		if chunk < 1 || len(stream) > 1<<16 {
			return
		}
		const limit = 64
		passed := 0
		var rest []byte
		var err error
		for left := stream; len(left) > 0 && err == nil; {
			p := left[:min(chunk, len(left))]
			left = left[len(p):]
			rest, _, err = split(append(rest, p...), limit, func(packet []byte) error {
				if !bytes.Equal(packet, stream[passed:passed+len(packet)]) {
					t.Fatal("a packet is not what came")
				}
				passed += len(packet)
				return nil
			})
			if len(rest) > limit && err == nil {
				t.Fatalf("%d bytes wait, more than a packet", len(rest))
			}
		}
		// Whatever passed never announces more than the limit.
		for in := bytes.NewReader(stream[:passed]); in.Len() > 0; {
			start := in.Len()
			if _, err := in.ReadByte(); err != nil {
				return
			}
			length, rerr := binary.ReadUvarint(in)
			if rerr != nil {
				return // cut within a header
			}
			if total := start - in.Len() + int(length); total > limit {
				t.Fatalf("a packet of %d bytes passed", total)
			}
			if _, err := in.Seek(int64(length), io.SeekCurrent); err != nil {
				return
			}
		}
	})
}

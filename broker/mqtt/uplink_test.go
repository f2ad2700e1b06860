package mqtt

import (
	"fmt"
	"sync"
	"testing"

	"groundswell/broker/cluster"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

var registry = topics.Share(topics.GroupRegistry, topics.Uplink)

// TestAcknowledgementsKeepTheOrderOfThePublishes pipelines more than the store
// answers at once [MQTT-4.6.0-2].
func TestAcknowledgementsKeepTheOrderOfThePublishes(t *testing.T) {
	n := startNode(t, withStore(func(c *cluster.Config) { c.Shards = 3 }))
	r := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	const total = 800
	var all []byte
	for id := uint16(1); id <= total; id++ {
		topic := topics.DeviceStatus("cam-1")
		if id%7 == 0 {
			topic = topics.DeviceStatus("other") // refused at once, but not before its turn
		}
		all = append(all, r.encode(publication(topic, fmt.Sprint(id), 1, id))...)
	}
	r.write(all)
	for id := uint16(1); id <= total; id++ {
		ack := r.expect(packets.Puback)
		if ack.PacketID != id || (ack.ReasonCode == 0x87) != (id%7 == 0) {
			t.Fatalf("PUBACK %d 0x%02x, want %d", ack.PacketID, ack.ReasonCode, id)
		}
	}
}

func TestReceiveMaximumIsEnforced(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.ReceiveMaximum = 4 }))
	flood := func(r *raw, count uint16) {
		var all []byte
		for id := uint16(1); id <= count; id++ {
			all = append(all, r.encode(publication(topics.DeviceStatus(fmt.Sprintf("cam-%d", r.version)), "x", 1, id))...)
		}
		r.write(all)
	}
	// An MQTT 5 client was told of the limit, and is sent away.
	r := n.rawConnect(deviceCredential(t, "cam-5"), 5, "cam-5", nil)
	flood(r, 40) // as many as the broker reads at once, so that it closes with nothing unread
	for {
		pk, err := r.read()
		if err != nil {
			t.Fatal("no DISCONNECT")
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			if pk.ReasonCode != 0x93 {
				t.Fatalf("DISCONNECT 0x%02x", pk.ReasonCode)
			}
			break
		}
	}
	// A 3.1.1 client cannot know: it is slowed down, and loses nothing.
	r = n.rawConnect(deviceCredential(t, "cam-4"), 4, "cam-4", nil)
	flood(r, 400)
	for id := uint16(1); id <= 400; id++ {
		if ack := r.expect(packets.Puback); ack.PacketID != id {
			t.Fatalf("PUBACK %d, want %d", ack.PacketID, id)
		}
	}
}

// TestFullStoreRefusesAndKeepsWhatItHas: the device must keep its report.
func TestFullStoreRefusesAndKeepsWhatItHas(t *testing.T) {
	n := startNode(t, withStore(func(c *cluster.Config) { c.MaxUplinkBytes = 1 << 20 }))
	dev := n.device("cam-1")
	big := string(make([]byte, topics.MaxLog-10))
	stored := 0
	var err error
	for ; err == nil && stored < 100; stored++ {
		err = dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceLog("cam-1"), Payload: []byte(big), QoS: 1})
	}
	stored--
	if code := refusal(t, err); code != 0x97 || stored < 5 {
		t.Fatalf("after %d: %v", stored, err)
	}
	old := n.rawConnect(deviceCredential(t, "cam-4"), 4, "cam-4", nil)
	old.send(publication(topics.DeviceLog("cam-4"), big, 1, 1))
	old.expectEnd(0) // 3.1.1 has no word for it

	// Nothing was thrown out, and room comes back once both groups are done.
	for _, group := range []string{topics.GroupRegistry, topics.GroupTelemetry} {
		fleetd := n.fleetd("fleetd-" + group)
		fleetd.subscribe(topics.Share(group, topics.Uplink))
		for range stored {
			fleetd.nextOf(topics.DeviceLog("cam-1"))
		}
	}
	eventually(t, "room in the store", func() bool {
		return dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceLog("cam-1"), Payload: []byte(big), QoS: 1}) == nil
	})
}

func TestOversizedPayloadOfAKindIsRefused(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	err := dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: make([]byte, topics.MaxStatus+1), QoS: 1})
	if code := refusal(t, err); code != 0x99 {
		t.Fatalf("got %v", err)
	}
}

// TestGroupKeepsWhatAMemberDidNotAcknowledge: the member dies, another gets it;
// what was acknowledged does not come again; all of it outlives a restart.
func TestGroupKeepsWhatAMemberDidNotAcknowledge(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	const total = 50
	for i := range total {
		dev.publish(topics.DeviceStatus("cam-1"), fmt.Sprint(i))
	}
	dead := n.dial(serviceCredential(t, "fleetd"), "fleetd-a", func(c *mqttclient.Config) { c.ManualAck = true })
	dead.subscribe(registry)
	for i := -1; i < total; i++ {
		m := dead.next()
		if i < 0 { // the device's presence
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %q as number %d", m.Payload, i)
		}
		if i < 20 {
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the acknowledgements in the store", func() bool {
		g, _ := n.stored.Group(topics.GroupRegistry)
		backlog, err := g.Backlog(t.Context())
		return err == nil && backlog == total-20
	})
	dead.Close()
	seen := map[string]int{}
	heir := n.dial(serviceCredential(t, "fleetd"), "fleetd-b", func(c *mqttclient.Config) { c.ManualAck = true })
	heir.subscribe(registry)
	for len(seen) < total-20 {
		m := heir.nextOf(topics.DeviceStatus("cam-1"))
		seen[string(m.Payload)]++
	}
	n.restart() // nothing of it was acknowledged
	last := n.fleetd("fleetd-c")
	last.subscribe(registry)
	got := map[string]bool{}
	for len(got) < total-20 {
		m := last.nextOf(topics.DeviceStatus("cam-1"))
		got[string(m.Payload)] = true
	}
	for i := range 20 {
		if got[fmt.Sprint(i)] || seen[fmt.Sprint(i)] > 0 {
			t.Errorf("%d came again after it was acknowledged", i)
		}
	}
}

func TestEachGroupGetsEverythingAndItsMembersShare(t *testing.T) {
	n := startNode(t)
	const total = 300
	var mu sync.Mutex
	count := map[string]map[string]int{topics.GroupRegistry: {}, topics.GroupTelemetry: {}}
	share := map[string]int{}
	for _, id := range []string{"fleetd-registry-1", "fleetd-registry-2", "fleetd-telemetry"} {
		group := topics.GroupRegistry
		if id == "fleetd-telemetry" {
			group = topics.GroupTelemetry
		}
		p := n.dial(serviceCredential(t, "fleetd"), id, func(c *mqttclient.Config) {
			c.OnMessage = func(m mqttclient.Message) {
				if m.Topic == topics.DeviceStatus("cam-1") {
					mu.Lock()
					count[group][string(m.Payload)]++
					share[id]++
					mu.Unlock()
				}
			}
		})
		p.subscribe(topics.Share(group, topics.Uplink))
	}
	dev := n.device("cam-1")
	for i := range total {
		dev.publish(topics.DeviceStatus("cam-1"), fmt.Sprint(i))
	}
	eventually(t, "everything in both groups", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(count[topics.GroupRegistry]) == total && len(count[topics.GroupTelemetry]) == total
	})
	mu.Lock()
	defer mu.Unlock()
	for group, got := range count {
		for payload, times := range got {
			if times != 1 {
				t.Errorf("%s got %s %d times", group, payload, times)
			}
		}
	}
	if share["fleetd-registry-1"] < total/10 || share["fleetd-registry-2"] < total/10 {
		t.Errorf("the members did not share: %v", share)
	}
}

// TestRefusedByAMemberComesAgain: a member that cannot handle a message now
// says so with an error in PUBACK.
func TestRefusedByAMemberComesAgain(t *testing.T) {
	n := startNode(t)
	r := n.rawConnect(serviceCredential(t, "fleetd"), 5, "fleetd-1", nil)
	r.send(subscription(1, registry))
	r.expect(packets.Suback)
	n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil).send(publication(topics.DeviceStatus("cam-1"), "x", 1, 1))
	refused := 0
	for refused < 2 {
		pk := r.expect(packets.Publish)
		ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}
		if pk.TopicName == topics.DeviceStatus("cam-1") {
			if pk.FixedHeader.Dup {
				t.Error("DUP on a packet that was never sent before")
			}
			ack.ReasonCode = 0x80
			refused++
		}
		r.send(ack)
	}
}

func TestPresenceTellsWhoCameAndWent(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(registry)
	read := func() topics.Presence {
		t.Helper()
		p, err := topics.DecodePresence(fleetd.nextOf(topics.DevicePresence("cam-1")).Payload)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	up := read()
	if !up.Connected || up.Model != "cam-a" || up.Hardware != "r1" || up.Node != "node-1" || up.Connection == 0 {
		t.Fatalf("got %+v", up)
	}
	second := n.rawConnect(deviceCredential(t, "cam-1"), 5, "cam-1", nil)
	first.expectEnd(0x8E)
	a, b := read(), read() // the two of a take-over, in any order
	if a.Connected {
		a, b = b, a
	}
	if a.Connected || a.Reason != "taken-over" || a.Connection != up.Connection || !b.Connected || b.Connection <= up.Connection {
		t.Fatalf("take-over: got %+v and %+v", a, b)
	}
	_ = second.conn.Close()
	if down := read(); down.Connected || down.Reason != "error" || down.Connection != b.Connection {
		t.Fatalf("got %+v", down)
	}
	third := n.rawConnect(deviceCredential(t, "cam-1"), 4, "cam-1", nil)
	read()
	third.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	if down := read(); down.Connected || down.Reason != "client" {
		t.Fatalf("got %+v", down)
	}
}

// TestQoS2IsHandledOnce: MQTT 3.1.1 devices may use it.
func TestQoS2IsHandledOnce(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(registry)
	r := n.rawConnect(deviceCredential(t, "cam-1"), 4, "cam-1", func(pk *packets.Packet) { pk.Connect.Clean = false })
	r.send(publication(topics.DeviceStatus("cam-1"), "once", 2, 9))
	r.expect(packets.Pubrec)
	_ = r.conn.Close()
	r = n.rawConnect(deviceCredential(t, "cam-1"), 4, "cam-1", func(pk *packets.Packet) { pk.Connect.Clean = false })
	again := publication(topics.DeviceStatus("cam-1"), "once", 2, 9)
	again.FixedHeader.Dup = true
	r.send(again)
	r.expect(packets.Pubrec)
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 9})
	r.expect(packets.Pubcomp)
	r.send(publication(topics.DeviceStatus("cam-1"), "then", 2, 9))
	r.expect(packets.Pubrec)
	for _, want := range []string{"once", "then"} {
		if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
	}
}

func TestQoS0IsStoredToo(t *testing.T) {
	n := startNode(t)
	dev := n.device("cam-1")
	if err := dev.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceHeartbeat("cam-1"), Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	fleetd := n.fleetd("fleetd-registry")
	fleetd.subscribe(registry)
	fleetd.nextOf(topics.DeviceHeartbeat("cam-1"))
}

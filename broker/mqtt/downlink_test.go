package mqtt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/internal/mqttclient"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestStaleManifestIsRefused(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	topic := topics.CohortManifest("a")
	fleetd.mustRetain(topic, 10, "ten")
	fleetd.mustRetain(topic, 10, "ten") // the outbox may repeat itself
	for _, c := range []struct {
		version int64
		payload string
	}{{9, "nine"}, {10, "other ten"}, {1, "ten"}} {
		err := fleetd.retain(topic, c.version, c.payload)
		if code := refusal(t, err); code != 0x83 || !strings.Contains(err.Error(), "stale: retained version 10") {
			t.Errorf("version %d %q: %v", c.version, c.payload, err)
		}
	}
	n.restart()
	fleetd = n.fleetd("fleetd")
	if code := refusal(t, fleetd.retain(topic, 9, "nine")); code != 0x83 {
		t.Errorf("after a restart: 0x%02x", code)
	}
	fleetd.mustRetain(topic, 11, "eleven")
	fleetd.subscribe(topics.AllManifests)
	if m := fleetd.next(); string(m.Payload) != "eleven" {
		t.Errorf("got %q", m.Payload)
	}
}

func TestStaleRefusalNamesTheRetainedVersion(t *testing.T) {
	n := startNode(t)
	r := n.rawConnect(serviceCredential(t, "fleetd"), 5, "fleetd", nil)
	manifest := func(id uint16, version string) packets.Packet {
		pk := publication(topics.CohortManifest("a"), "v"+version, 1, id)
		pk.FixedHeader.Retain = true
		pk.Properties.User = []packets.UserProperty{{Key: topics.PropVersion, Val: version}}
		return pk
	}
	r.send(manifest(1, "5"))
	if ack := r.expect(packets.Puback); ack.ReasonCode != 0 {
		t.Fatalf("0x%02x", ack.ReasonCode)
	}
	r.send(manifest(2, "4"))
	ack := r.expect(packets.Puback)
	if ack.ReasonCode != 0x83 || len(ack.Properties.User) != 1 || ack.Properties.User[0] != (packets.UserProperty{Key: topics.PropVersion, Val: "5"}) {
		t.Fatalf("0x%02x %v", ack.ReasonCode, ack.Properties.User)
	}
}

func TestRetainedWithoutAVersionIsRefused(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	topic := topics.CohortManifest("a")
	props := func(values ...string) (ps []mqttclient.Property) {
		for _, v := range values {
			ps = append(ps, mqttclient.Property{Key: topics.PropVersion, Value: v})
		}
		return ps
	}
	for _, p := range []mqttclient.Publication{
		{Retain: true}, {Retain: true, Properties: props("0")}, {Retain: true, Properties: props("-1")},
		{Retain: true, Properties: props("1", "2")}, {Retain: true, Properties: props("01")},
		{Retain: true, Properties: props("99999999999999999999")}, {Properties: props("1")},
	} {
		p.Topic, p.Payload, p.QoS = topic, []byte("x"), 1
		if code := refusal(t, fleetd.Publish(t.Context(), p)); code != 0x83 {
			t.Errorf("%+v: 0x%02x", p, code)
		}
	}
	fleetd.mustRetain(topic, 1, "good")
}

// TestClearedTopicStaysCleared: a clearing is a version like any other.
func TestClearedTopicStaysCleared(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	topic := topics.CohortManifest("a")
	fleetd.mustRetain(topic, 1, "one")
	fleetd.mustRetain(topic, 2, "")
	if code := refusal(t, fleetd.retain(topic, 1, "one")); code != 0x83 {
		t.Errorf("0x%02x", code)
	}
	fleetd.mustRetain(topics.CohortManifest("b"), 1, "b")
	n.awaitRouted() // else the clearing itself comes, live
	fleetd.subscribe(topic, topics.AllManifests)
	// What is retained is read oldest first: the cleared one would be the first.
	for _, want := range []string{"b", "marker"} {
		if m := fleetd.next(); string(m.Payload) != want {
			t.Errorf("got %q on %s, want %q", m.Payload, m.Topic, want)
		}
	}
}

// TestEveryRetainedMessageReachesASlowScan: mochi dropped what did not fit its
// queue (B15).
func TestEveryRetainedMessageReachesASlowScan(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 50 }))
	fleetd := n.fleetd("fleetd")
	const total = 600
	done := make(chan error, total)
	for i := range total {
		go func() { done <- fleetd.retain(topics.CohortManifest(fmt.Sprintf("c%d", i)), 1, fmt.Sprint(i)) }()
	}
	for range total {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	reader := n.dial(serviceCredential(t, "fleetd"), "fleetd-reader", func(c *mqttclient.Config) { c.ReceiveMaximum = 3 })
	reader.subscribe(topics.AllManifests)
	seen := map[string]bool{}
	for range total {
		m := reader.next()
		if seen[m.Topic] || !m.Retained {
			t.Fatalf("%s twice, or not retained (%v)", m.Topic, m.Retained)
		}
		seen[m.Topic] = true
	}
}

func TestCommandWaitsInTheSession(t *testing.T) {
	n := startNode(t)
	keep := func(c *mqttclient.Config) { c.SessionExpiry = time.Hour }
	fleetd := n.fleetd("fleetd")
	command := func(payload string, expiry time.Duration) error {
		return fleetd.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceCommand("cam-1"), Payload: []byte(payload), QoS: 1, Expiry: expiry})
	}
	if err := command("to nobody", 0); err != nil {
		t.Fatal(err)
	}
	dev := n.dial(deviceCredential(t, "cam-1"), "cam-1", keep)
	if dev.SessionPresent {
		t.Error("a session was present")
	}
	dev.subscribe(topics.DeviceCommand("cam-1"))
	if err := command("online", time.Hour); err != nil {
		t.Fatal(err)
	}
	if m := dev.next(); string(m.Payload) != "online" || m.Expiry <= 0 || m.Expiry > time.Hour {
		t.Fatalf("got %q, expires in %v", m.Payload, m.Expiry)
	}
	dev.Close()
	eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 1 })
	for _, payload := range []string{"first", "second"} {
		if err := command(payload, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := command("too late", time.Second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // let it expire: the clock is the broker's own
	dev = n.dial(deviceCredential(t, "cam-1"), "cam-1", keep)
	if !dev.SessionPresent {
		t.Error("the session is gone")
	}
	for _, want := range []string{"first", "second"} {
		if m := dev.next(); string(m.Payload) != want {
			t.Fatalf("got %q, want %q", m.Payload, want)
		}
	}
	if err := command("last", 0); err != nil {
		t.Fatal(err)
	}
	if m := dev.next(); string(m.Payload) != "last" {
		t.Fatalf("got %q", m.Payload)
	}
}

func TestFullQueueOfAnAbsentDeviceIsToldToThePublisher(t *testing.T) {
	n := startNode(t, withStore(func(c *cluster.Config) { c.MaxInboxPerTopic = 3 }))
	dev := n.dial(deviceCredential(t, "cam-1"), "cam-1", func(c *mqttclient.Config) { c.SessionExpiry = time.Hour })
	dev.subscribe(topics.DeviceCommand("cam-1"))
	dev.Close()
	eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
	fleetd := n.fleetd("fleetd")
	for i := range 4 {
		err := fleetd.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceCommand("cam-1"), Payload: []byte("x"), QoS: 1})
		if code := refusal(t, err); (code == 0x97) != (i == 3) {
			t.Fatalf("%d: 0x%02x", i, code)
		}
	}
}

// TestOldProtocolWorksToo: MQTT 3.1.1, with a session that is kept.
func TestOldProtocolWorksToo(t *testing.T) {
	n := startNode(t)
	fleetd := n.fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"a"`)
	persistent := func(pk *packets.Packet) { pk.Connect.Clean = false }
	r := n.rawConnect(deviceCredential(t, "cam-1"), 4, "cam-1", persistent)
	r.send(subscription(7, topics.CohortManifest("a"), topics.CohortManifest("b")))
	if ack := r.expect(packets.Suback); ack.PacketID != 7 || string(ack.ReasonCodes) != "\x01\x80" {
		t.Fatalf("SUBACK %d %x", ack.PacketID, ack.ReasonCodes)
	}
	fleetd.mustRetain(topics.CohortManifest("a"), 1, "one")
	first := r.expect(packets.Publish) // not acknowledged
	_ = r.conn.Close()
	eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 1 })
	fleetd.mustRetain(topics.CohortManifest("a"), 2, "two")
	fleetd.mustRetain(topics.CohortManifest("a"), 3, "three")
	n.awaitRouted()
	r = n.rawDial(deviceCredential(t, "cam-1"), 4)
	if ack := r.connect("cam-1", persistent); !ack.SessionPresent {
		t.Fatal("the session is gone")
	}
	again := r.expect(packets.Publish)
	if !again.FixedHeader.Dup || again.PacketID != first.PacketID || string(again.Payload) != "one" {
		t.Fatalf("got %q id %d dup %v", again.Payload, again.PacketID, again.FixedHeader.Dup)
	}
	newest := r.expect(packets.Publish)
	if newest.FixedHeader.Dup || string(newest.Payload) != "three" {
		t.Fatalf("got %q dup %v: only the newest manifest may wait", newest.Payload, newest.FixedHeader.Dup)
	}
	r.send(publication(topics.DeviceStatus("cam-2"), "x", 1, 3)) // not ours, and 3.1.1 cannot be told
	r.expectEnd(0)
}

// TestPlainSubscriptionSeesReportsLive: for operators' tools; it keeps nothing.
func TestPlainSubscriptionSeesReportsLive(t *testing.T) {
	n := startNode(t)
	tool := n.fleetd("fleetd-tool")
	tool.subscribe("fleet/v1/devices/+/status")
	dev := n.device("cam-1")
	dev.publish(topics.DeviceStatus("cam-1"), "x")
	m := tool.next()
	if seq, _ := m.Property(topics.PropSequence); m.Topic != topics.DeviceStatus("cam-1") || seq == "" {
		t.Fatalf("got %s, sequence %q", m.Topic, seq)
	}
}

// TestAManifestReachesADeviceWhoseQueueIsFull: commands must not keep a pause
// from a device.
func TestAManifestReachesADeviceWhoseQueueIsFull(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 3 }))
	keep := func(c *mqttclient.Config) { c.SessionExpiry = time.Hour }
	fleetd := n.fleetd("fleetd")
	fleetd.assign("cam-1", 1, `"a"`)
	dev := n.dial(deviceCredential(t, "cam-1"), "cam-1", keep)
	dev.subscribe(topics.DeviceCommand("cam-1"), topics.CohortManifest("a"))
	dev.Close()
	eventually(t, "the device gone", func() bool { c, _ := n.edge.counts(); return c == 1 })
	for range 3 {
		fleetd.publish(topics.DeviceCommand("cam-1"), "command")
	}
	n.awaitWaiting("cam-1", 3) // or a manifest may overtake a command
	fleetd.mustRetain(topics.CohortManifest("a"), 1, "running")
	fleetd.mustRetain(topics.CohortManifest("a"), 2, "paused")
	n.awaitRouted()
	dev = n.dial(deviceCredential(t, "cam-1"), "cam-1", keep)
	for range 3 {
		if m := dev.next(); string(m.Payload) != "command" {
			t.Fatalf("got %q", m.Payload)
		}
	}
	if m := dev.next(); string(m.Payload) != "paused" {
		t.Fatalf("got %q", m.Payload)
	}
}

// TestAReaderOfAllManifestsGetsWhatItsFullQueueRefused.
func TestAReaderOfAllManifestsGetsWhatItsFullQueueRefused(t *testing.T) {
	n := startNode(t, withLimits(func(l *Limits) { l.SessionQueueMessages = 3 }))
	keep := func(c *mqttclient.Config) { c.SessionExpiry = time.Hour }
	reader := n.dial(serviceCredential(t, "fleetd"), "fleetd-reader", keep)
	reader.subscribe(topics.AllManifests)
	reader.Close()
	eventually(t, "the reader gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
	fleetd := n.fleetd("fleetd")
	const total = 10
	for i := range total {
		fleetd.mustRetain(topics.CohortManifest(fmt.Sprintf("c%d", i)), 1, "x")
	}
	n.awaitWaiting("fleetd-reader", 3)
	reader = n.dial(serviceCredential(t, "fleetd"), "fleetd-reader", keep)
	seen := map[string]bool{}
	for len(seen) < total {
		seen[reader.next().Topic] = true
	}
}

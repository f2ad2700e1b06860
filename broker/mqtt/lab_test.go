package mqtt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestEveryQoSOnAnyTopic(t *testing.T) {
	n := startNode(t, withLab(nil))
	for _, version := range []byte{3, 4, 5} {
		sub, _ := n.labConnect(version, fmt.Sprintf("sub-%d", version), nil)
		pub, _ := n.labConnect(version, fmt.Sprintf("pub-%d", version), nil)
		for granted := range byte(3) {
			topic := fmt.Sprintf("/any thing/über.*>/%d/%d", version, granted)
			sub.open(granted, topic)
			for qos := range byte(3) {
				pub.say(publication(topic, fmt.Sprint(qos), qos, 0))
				m := sub.hear()
				if m.TopicName != topic || string(m.Payload) != fmt.Sprint(qos) || m.FixedHeader.Qos != min(qos, granted) || m.FixedHeader.Retain || m.FixedHeader.Dup {
					t.Errorf("version %d: published with QoS %d, granted %d: got %+v", version, qos, granted, m)
				}
			}
		}
		sub.hearsNoMore()
	}
}

// TestTheLabIsAWorldOfItsOwn: neither side sees or disturbs the other, whatever the
// topics and client ids.
func TestTheLabIsAWorldOfItsOwn(t *testing.T) {
	n := startNode(t, withLab(nil))
	device, fleetd := n.device("cam-1"), n.fleetd("fleetd")
	device.subscribe(topics.DeviceCommand("cam-1"))
	fleetd.subscribe(topics.Uplink)
	spy := n.lab("cam-1") // takes nobody's place
	spy.open(1, "#", topics.DeviceCommand("cam-1"))

	device.publish(topics.DeviceStatus("cam-1"), "fleet")
	if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != "fleet" {
		t.Errorf("got %s", m.Payload)
	}
	spy.say(publication(topics.DeviceStatus("cam-1"), "forged", 1, 0))
	spy.say(publication(topics.DeviceCommand("cam-1"), "forged", 1, 0))
	spy.hears("forged", "forged")
	fleetd.publish(topics.DeviceCommand("cam-1"), "real")
	if m := device.next(); string(m.Payload) != "real" {
		t.Errorf("the device got %s", m.Payload)
	}
	device.publish(topics.DeviceStatus("cam-1"), "fleet again")
	if m := fleetd.nextOf(topics.DeviceStatus("cam-1")); string(m.Payload) != "fleet again" {
		t.Errorf("fleetd got %s", m.Payload)
	}
	spy.hearsNoMore()
}

func TestLabIsRefusedOffLoopback(t *testing.T) {
	for listen, field := range map[string]string{
		":1883": "lab.listen", "0.0.0.0:1883": "lab.listen", "192.168.1.1:1883": "lab.listen", "broker.example:1883": "lab.listen",
		"localhost:1883": "lab.listen", "127.0.0.1": "lab.listen",
	} {
		n := newNode(t, withLab(func(l *Lab) { l.Listen = listen }))
		if err := n.cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", listen, err)
		}
	}
	for _, keep := range []time.Duration{-time.Second, 65536 * time.Second, 1500 * time.Millisecond} {
		n := newNode(t, withLab(func(l *Lab) { l.ServerKeepAlive = keep }))
		if err := n.cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), "lab.server_keep_alive") {
			t.Errorf("%v: %v", keep, err)
		}
	}
	if n := newNode(t); n.cfg.Validate() != nil || n.cfg.Lab.Listen != "" {
		t.Error("the lab is not off by default")
	}
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "127.9.9.9:1883"} {
		n := newNode(t, withLab(func(l *Lab) { l.Listen = listen }))
		if err := n.cfg.Validate(); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestLabKeepAliveAndRefusedFilter(t *testing.T) {
	n := startNode(t, withLab(func(l *Lab) { l.ServerKeepAlive, l.RefuseFilter = 60*time.Second, "test/nosubscribe" }))
	r, ack := n.labConnect(5, "a", func(pk *packets.Packet) { pk.Connect.Keepalive = 120 })
	if ack.Properties.ServerKeepAlive != 60 {
		t.Errorf("server keep-alive %d", ack.Properties.ServerKeepAlive)
	}
	r.send(subscription(1, "test/nosubscribe", "test/else"))
	if codes := r.expect(packets.Suback).ReasonCodes; !slices.Equal(codes, []byte{0x80, 1}) {
		t.Errorf("SUBACK % x", codes)
	}
	old, _ := n.labConnect(4, "b", nil)
	old.send(subscription(1, "test/nosubscribe"))
	if codes := old.expect(packets.Suback).ReasonCodes; !slices.Equal(codes, []byte{0x80}) {
		t.Errorf("SUBACK % x before MQTT 5", codes)
	}
}

func TestLabClientIDs(t *testing.T) {
	n := startNode(t, withLab(nil))
	_, first := n.labConnect(5, "", nil)
	_, second := n.labConnect(5, "", nil)
	if a, b := first.Properties.AssignedClientID, second.Properties.AssignedClientID; a == "" || a == b {
		t.Errorf("assigned %q and %q", a, b)
	}
	if _, named := n.labConnect(5, "mine", nil); named.Properties.AssignedClientID != "" {
		t.Errorf("assigned %q to one that has an id", named.Properties.AssignedClientID)
	}
	n.labConnect(4, "", nil)
	ack := n.labDial(4).connect("", func(pk *packets.Packet) { pk.Connect.Clean = false })
	if ack.ReasonCode != 2 {
		t.Errorf("a lasting session without an id: CONNACK %d", ack.ReasonCode)
	}
	for _, id := range []string{" a", "a\tb", strings.Repeat("x", 1025)} {
		if ack := n.labDial(5).connect(id, nil); ack.ReasonCode != packets.ErrClientIdentifierNotValid.Code {
			t.Errorf("%.10q: CONNACK 0x%02x", id, ack.ReasonCode)
		}
	}
	// The assigned id works as any other.
	again, ack := n.labConnect(5, first.Properties.AssignedClientID, lasting)
	if ack.SessionPresent {
		t.Error("a session that was to end is present")
	}
	again.open(1, "t")
	again.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	if _, ack = n.labConnect(5, first.Properties.AssignedClientID, lasting); !ack.SessionPresent {
		t.Error("its session is gone")
	}
}

// TestLabSessionSurvivesARestart: what was acknowledged while the client was away
// comes, in order, after the broker was started anew.
func TestLabSessionSurvivesARestart(t *testing.T) {
	n := startNode(t, withLab(nil))
	sub, _ := n.labConnect(5, "sub", lasting)
	sub.open(2, "t/#")
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	eventually(t, "the subscriber gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
	pub := n.lab("pub")
	var want []string
	for i := range 50 {
		pub.say(publication("t/x", fmt.Sprint(i), byte(1+i%2), 0))
		want = append(want, fmt.Sprint(i))
	}
	pub.say(publication("t/x", "for those who are there", 0, 0))
	n.restart()
	sub, ack := n.labConnect(5, "sub", lasting)
	if !ack.SessionPresent {
		t.Fatal("the session is gone")
	}
	for i, w := range want {
		if m := sub.hear(); string(m.Payload) != w || m.FixedHeader.Qos != byte(1+i%2) {
			t.Fatalf("got %s with QoS %d, want %s", m.Payload, m.FixedHeader.Qos, w)
		}
	}
}

// TestLabReachesEveryNode: a message goes to subscribers on any node, a session to
// whichever node its client comes to, also when its node was killed.
func TestLabReachesEveryNode(t *testing.T) {
	nodes := startTrio(t, withLab(nil))
	sub, _ := nodes[0].labConnect(5, "sub", lasting)
	sub.open(2, "t/+")
	nodes[1].lab("pub-1").say(publication("t/a", "from another node", 2, 0))
	sub.hears("from another node")
	nodes[0].crash()
	for _, n := range nodes[1:] {
		eventually(t, "the two to go on", func() bool {
			_, err := n.stored.OpenTopics().End(t.Context())
			return errors.Join(err, n.stored.Ready(t.Context())) == nil
		})
	}
	pub := nodes[2].lab("pub-2")
	for i := range 20 {
		pub.say(publication("t/b", fmt.Sprint(i), 1, 0))
	}
	sub, ack := nodes[1].labConnect(5, "sub", lasting)
	if !ack.SessionPresent {
		t.Fatal("the session did not follow its client")
	}
	m := sub.hear()
	if string(m.Payload) == "from another node" { // the cursor had not been written
		m = sub.hear()
	}
	for i := range 20 {
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", m.Payload, i)
		}
		if i < 19 {
			m = sub.hear()
		}
	}
}

// TestWhoSubscribesWhileAMessageIsRetainedGetsItOnce: whether it comes live or as the
// retained one.
func TestWhoSubscribesWhileAMessageIsRetainedGetsItOnce(t *testing.T) {
	t.Parallel()
	n := startNode(t, withLab(nil))
	pub, sub := n.lab("pub"), n.lab("sub")
	for i := range 100 {
		topic := fmt.Sprint("t/", i)
		pk := publication(topic, fmt.Sprint(i), 0, 0)
		pk.FixedHeader.Retain = true
		pub.send(pk)
		sub.open(1, topic)
		sub.hears(fmt.Sprint(i))
	}
	sub.hearsNoMore()
}

// TestWhatWasReadForOtherFiltersIsReadAgain: a subscription that was made while the log
// was being read may match what lies before that.
func TestWhatWasReadForOtherFiltersIsReadAgain(t *testing.T) {
	t.Parallel()
	n := startNode(t, withLab(nil))
	a := n.lab("a")
	a.open(1, "t")
	n.edge.mu.Lock()
	cl := n.edge.clients["$lab/a"]
	n.edge.mu.Unlock()
	cl.mu.Lock()
	c, changes := cl.conn, cl.changes
	cl.mu.Unlock()
	at := func() uint64 {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		return cl.read
	}
	m := cluster.Message{Topic: "t", Payload: []byte("x"), Attributes: []byte(`{"qos":1}`), Sequence: 1000}
	if n.edge.bring(c, m, changes-1); at() >= m.Sequence {
		t.Errorf("read up to %d for filters of before", at())
	}
	if n.edge.bring(c, m, changes); at() != m.Sequence {
		t.Errorf("read up to %d", at())
	}
	a.hears("x")
}

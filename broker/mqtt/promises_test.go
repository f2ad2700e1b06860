package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// What MQTT promises, each over a socket, on open topics.

func retained(topic, payload string, qos byte) packets.Packet {
	pk := publication(topic, payload, qos, 0)
	pk.FixedHeader.Retain = true
	return pk
}

func TestRetainedOnAnyTopic(t *testing.T) {
	n := startNode(t, withLab(nil))
	pub := n.lab("pub")
	for qos, topic := range []string{"a/b", "/a/é", "a/b/c"} {
		pub.say(retained(topic, "old", byte(qos)))
		pub.say(retained(topic, "new", byte(qos)))
	}
	pub.say(retained("a/cleared", "x", 1))
	pub.say(retained("a/cleared", "", 1))
	pub.say(retained("$sys/x", "x", 1))
	pub.say(publication("a/b", "not to be retained", 1, 0))
	sub := n.lab("sub")
	sub.open(2, "#")
	got := map[string]byte{}
	for range 3 {
		m := sub.hear()
		if string(m.Payload) != "new" || !m.FixedHeader.Retain {
			t.Errorf("got %q on %s, retain %v", m.Payload, m.TopicName, m.FixedHeader.Retain)
		}
		got[m.TopicName] = m.FixedHeader.Qos
	}
	if len(got) != 3 || got["/a/é"] != 1 || got["a/b/c"] != 2 {
		t.Errorf("got %v", got)
	}
	// Who is subscribed gets it as any other message.
	pub.say(retained("a/b", "newer", 1))
	if m := sub.hear(); string(m.Payload) != "newer" || m.FixedHeader.Retain {
		t.Errorf("live: %q, retain %v", m.Payload, m.FixedHeader.Retain)
	}
	pub.say(retained("a/b", "", 1))
	if m := sub.hear(); len(m.Payload) != 0 {
		t.Errorf("the clearing message: %q", m.Payload)
	}
	sub.hearsNoMore()
	// The restart of a broker clears nothing.
	n.restart()
	again := n.lab("again")
	again.open(1, "/a/+", "a/#")
	for range 2 {
		if m := again.hear(); string(m.Payload) != "new" {
			t.Errorf("after a restart: %q on %s", m.Payload, m.TopicName)
		}
	}
	again.hearsNoMore()
}

func TestRetainHandlingAndRetainAsPublished(t *testing.T) {
	n := startNode(t, withLab(nil))
	pub, sub := n.lab("pub"), n.lab("sub")
	pub.say(retained("t", "kept", 1))
	handling := func(h byte) func(*packets.Subscription) {
		return func(s *packets.Subscription) { s.Qos, s.RetainHandling = 1, h }
	}
	sub.openAs(handling(2), "t") // never
	sub.openAs(handling(1), "t") // only if new, which it is not
	sub.openAs(handling(0), "t")
	sub.hears("kept")
	other := n.lab("other")
	other.openAs(handling(1), "t")
	other.hears("kept")
	other.openAs(func(s *packets.Subscription) { s.Qos, s.RetainAsPublished, s.RetainHandling = 1, true, 2 }, "t")
	pub.say(retained("t", "live", 1))
	if m := other.hear(); !m.FixedHeader.Retain {
		t.Error("retain as published: it was not")
	}
	if m := sub.hear(); m.FixedHeader.Retain {
		t.Error("retain on a live message")
	}
	sub.hearsNoMore()
	other.hearsNoMore()
}

func TestPropertiesPassUnaltered(t *testing.T) {
	n := startNode(t, withLab(nil))
	pub := n.lab("pub")
	sub, _ := n.labConnect(5, "sub", func(pk *packets.Packet) { // no problem information, which these are not
		pk.Properties.RequestProblemInfo, pk.Properties.RequestProblemInfoFlag = 0, true
	})
	sub.open(2, "t")
	pk := publication("t", "payload", 2, 0)
	pk.Properties = packets.Properties{
		PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "text/plain", ResponseTopic: "answer/here",
		CorrelationData: []byte{0, 1, 0xff}, MessageExpiryInterval: 100,
		User: []packets.UserProperty{{Key: "k", Val: "1"}, {Key: "k", Val: "2"}, {Key: "", Val: "\n"}},
	}
	for _, retain := range []bool{false, true} {
		pk.FixedHeader.Retain = retain
		pub.say(pk)
		if retain {
			sub.hear() // live
			sub.open(2, "t")
		}
		p := sub.hear().Properties
		if p.PayloadFormat != 1 || !p.PayloadFormatFlag || p.ContentType != "text/plain" || p.ResponseTopic != "answer/here" ||
			!slices.Equal(p.CorrelationData, []byte{0, 1, 0xff}) || !slices.Equal(p.User, pk.Properties.User) {
			t.Errorf("retain %v: got %+v", retain, p)
		}
		if p.MessageExpiryInterval == 0 || p.MessageExpiryInterval > 100 {
			t.Errorf("retain %v: expires in %d s", retain, p.MessageExpiryInterval)
		}
	}
}

func TestWhatHasExpiredIsNotDelivered(t *testing.T) {
	n := startNode(t, withLab(nil))
	sub, _ := n.labConnect(5, "sub", lasting)
	sub.open(1, "t")
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	eventually(t, "the subscriber gone", func() bool { c, _ := n.edge.counts(); return c == 0 })
	pub := n.lab("pub")
	for payload, expiry := range map[string]uint32{"short": 1, "long": 1000} {
		pk := publication("t", payload, 1, 0)
		pk.Properties.MessageExpiryInterval = expiry
		pub.say(pk)
		pk.TopicName, pk.FixedHeader.Retain = "r/"+payload, true
		pub.say(pk)
	}
	gone := time.Now().Add(1100 * time.Millisecond)
	eventually(t, "the time to pass", func() bool { return time.Now().After(gone) })
	sub, _ = n.labConnect(5, "sub", lasting)
	m := sub.hear()
	if string(m.Payload) != "long" || m.Properties.MessageExpiryInterval > 999 {
		t.Errorf("got %q, which expires in %d s", m.Payload, m.Properties.MessageExpiryInterval)
	}
	sub.open(1, "r/+")
	sub.hears("long")
	sub.hearsNoMore()
}

func TestOverlappingSubscriptionsAndIdentifiers(t *testing.T) {
	n := startNode(t, withLab(nil))
	pub, sub := n.lab("pub"), n.lab("sub")
	as := func(qos byte, id int) func(*packets.Subscription) {
		return func(s *packets.Subscription) { s.Qos, s.Identifier = qos, id }
	}
	sub.openAs(as(0, 1), "a/+")
	sub.openAs(as(2, 300_000), "a/#")
	sub.openAs(as(1, 0), "a/b")
	pub.say(publication("a/b", "x", 2, 0))
	m := sub.hear()
	slices.Sort(m.Properties.SubscriptionIdentifier)
	if m.FixedHeader.Qos != 2 || !slices.Equal(m.Properties.SubscriptionIdentifier, []int{1, 300_000}) {
		t.Errorf("QoS %d, identifiers %v", m.FixedHeader.Qos, m.Properties.SubscriptionIdentifier)
	}
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: "a/#"}, {Filter: "none"}}})
	if codes := sub.expect(packets.Unsuback).ReasonCodes; !slices.Equal(codes, []byte{0, packets.CodeNoSubscriptionExisted.Code}) {
		t.Errorf("UNSUBACK % x", codes)
	}
	pub.say(publication("a/b", "y", 2, 0))
	if m := sub.hear(); m.FixedHeader.Qos != 1 || !slices.Equal(m.Properties.SubscriptionIdentifier, []int{1}) {
		t.Errorf("QoS %d, identifiers %v", m.FixedHeader.Qos, m.Properties.SubscriptionIdentifier)
	}
	sub.hearsNoMore()
}

func TestNoLocalAndDollarTopics(t *testing.T) {
	n := startNode(t, withLab(nil))
	r := n.lab("r")
	r.openAs(func(s *packets.Subscription) { s.Qos, s.NoLocal = 1, true }, "mine")
	r.open(1, "#", "+/x", "also/mine")
	r.say(publication("$any/x", "not for wildcards", 1, 0))
	r.say(publication("also/mine", "heard", 1, 0))
	r.hears("heard")
	r.openAs(func(s *packets.Subscription) { s.Qos, s.NoLocal = 1, true }, "#", "+/x", "also/mine")
	r.say(publication("mine", "not to myself", 1, 0))
	r.open(1, "$any/#")
	r.say(publication("$any/x", "asked for", 1, 0))
	r.hears("asked for")
	r.hearsNoMore()
}

func TestTopicAliasesInBothDirections(t *testing.T) {
	n := startNode(t, withLab(nil))
	pub, ack := n.labConnect(5, "pub", nil)
	if ack.Properties.TopicAliasMaximum != maxAliases {
		t.Errorf("topic alias maximum %d", ack.Properties.TopicAliasMaximum)
	}
	sub, _ := n.labConnect(5, "sub", func(pk *packets.Packet) { pk.Properties.TopicAliasMaximum = 2 })
	plain := n.lab("plain")
	sub.open(1, "#")
	plain.open(1, "#")
	aliased := func(topic, payload string, alias uint16) packets.Packet {
		pk := publication(topic, payload, 1, 0)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = alias, true
		return pk
	}
	pub.say(aliased("first", "1", 3))
	pub.say(aliased("", "2", 3))
	pub.say(aliased("second", "3", 3)) // means another from now on
	pub.say(aliased("", "4", 3))
	pub.say(publication("third", "5", 1, 0))
	for i, want := range []struct {
		topic, sent string
		alias       uint16
	}{{"first", "first", 1}, {"first", "", 1}, {"second", "second", 2}, {"second", "", 2}, {"third", "third", 0}} {
		m := sub.hear()
		if string(m.Payload) != fmt.Sprint(i+1) || m.TopicName != want.sent || m.Properties.TopicAlias != want.alias {
			t.Errorf("message %d: %q on %q, alias %d", i+1, m.Payload, m.TopicName, m.Properties.TopicAlias)
		}
		if m := plain.hear(); m.TopicName != want.topic || m.Properties.TopicAlias != 0 {
			t.Errorf("message %d: on %q, alias %d, for one who takes none", i+1, m.TopicName, m.Properties.TopicAlias)
		}
	}
}

func TestReceiveMaximumOfBothSides(t *testing.T) {
	n := startNode(t, withLab(nil), withLimits(func(l *Limits) { l.ReceiveMaximum = 5 }))
	sub, ack := n.labConnect(5, "sub", func(pk *packets.Packet) { pk.Properties.ReceiveMaximum = 2 })
	if ack.Properties.ReceiveMaximum != 5 {
		t.Errorf("receive maximum %d", ack.Properties.ReceiveMaximum)
	}
	sub.open(2, "t")
	pub := n.lab("pub")
	for i := range 5 {
		pub.say(publication("t", fmt.Sprint(i), 2, 0))
	}
	first, second := sub.expect(packets.Publish), sub.expect(packets.Publish)
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: first.PacketID})
	if rel := sub.expect(packets.Pubrel); rel.PacketID != first.PacketID { // and no third message
		t.Fatalf("PUBREL of %d", rel.PacketID)
	}
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: first.PacketID})
	sub.early = append(sub.early, second)
	sub.hears("1", "2", "3", "4")
	sub.hearsNoMore()
}

func TestMaximumPacketSizeOfTheClient(t *testing.T) {
	n := startNode(t, withLab(nil))
	sub, _ := n.labConnect(5, "sub", func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = 100 })
	sub.open(2, "t")
	pub := n.lab("pub")
	for qos := range byte(3) {
		pub.say(publication("t", strings.Repeat("x", 200), qos, 0))
	}
	pub.say(publication("t", "small", 2, 0))
	sub.hears("small")
	if got := n.metric(`broker_dropped_total{reason="larger-than-client-takes"}`); got != 3 {
		t.Errorf("counted %v", got)
	}
}

// TestExactlyOnce: whatever is repeated on the way, a QoS 2 message comes once.
func TestExactlyOnce(t *testing.T) {
	n := startNode(t, withLab(nil))
	sub, _ := n.labConnect(5, "sub", lasting)
	sub.open(2, "t")
	pub, _ := n.labConnect(5, "pub", lasting)
	pub.send(publication("t", "one", 2, 9))
	pub.expect(packets.Pubrec)
	pub.conn.Close()
	pub, _ = n.labConnect(5, "pub", lasting)
	again := publication("t", "one", 2, 9)
	again.FixedHeader.Dup = true
	pub.send(again) // it has not got PUBREC
	pub.mustBeGood(pub.expect(packets.Pubrec))
	pub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 9})
	pub.mustBeGood(pub.expect(packets.Pubcomp))
	pub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 9})
	if ack := pub.expect(packets.Pubcomp); ack.ReasonCode != packets.ErrPacketIdentifierNotFound.Code {
		t.Errorf("PUBCOMP 0x%02x for an id that was released", ack.ReasonCode)
	}

	first := sub.expect(packets.Publish)
	sub.conn.Close() // PUBREC got lost
	sub, _ = n.labConnect(5, "sub", lasting)
	second := sub.expect(packets.Publish)
	if first.FixedHeader.Dup || !second.FixedHeader.Dup || second.PacketID != first.PacketID {
		t.Errorf("sent again: dup %v, id %d after %d", second.FixedHeader.Dup, second.PacketID, first.PacketID)
	}
	rec := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: first.PacketID}
	sub.send(rec)
	sub.expect(packets.Pubrel)
	sub.conn.Close() // PUBREL got lost
	sub, _ = n.labConnect(5, "sub", lasting)
	if rel := sub.expect(packets.Pubrel); rel.PacketID != first.PacketID { // and not the message
		t.Errorf("PUBREL of %d", rel.PacketID)
	}
	sub.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: first.PacketID})
	sub.send(rec)
	if rel := sub.expect(packets.Pubrel); rel.ReasonCode != packets.ErrPacketIdentifierNotFound.Code {
		t.Errorf("PUBREL 0x%02x for an id that is not in use", rel.ReasonCode)
	}
	sub.hearsNoMore()
}

func TestWillsOfTheLab(t *testing.T) {
	n := startNode(t, withLab(nil))
	watcher := n.lab("watcher")
	watcher.open(2, "will/#")
	willing := func(topic string, delay uint32, payload string) func(*packets.Packet) {
		return func(pk *packets.Packet) {
			lasting(pk)
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, topic, []byte(payload)
			pk.Connect.WillQos, pk.Connect.WillRetain = 2, true
			pk.Connect.WillProperties = packets.Properties{
				ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte("c"), MessageExpiryInterval: 500,
				WillDelayInterval: delay, User: []packets.UserProperty{{Key: "k", Val: "v"}},
			}
		}
	}
	r, _ := n.labConnect(5, "a", willing("will/a", 0, "gone"))
	r.conn.Close()
	m := watcher.hear()
	p := m.Properties
	if string(m.Payload) != "gone" || m.FixedHeader.Qos != 2 || p.ContentType != "text/plain" || p.ResponseTopic != "r" ||
		string(p.CorrelationData) != "c" || p.MessageExpiryInterval == 0 || len(p.User) != 1 {
		t.Errorf("got %+v", m)
	}
	late := n.lab("late")
	late.open(1, "will/a")
	if m := late.hear(); !m.FixedHeader.Retain || string(m.Payload) != "gone" {
		t.Errorf("retained: %+v", m)
	}

	// An orderly farewell, or a client that is back in time, and there is none.
	r, _ = n.labConnect(5, "b", willing("will/b", 0, "gone"))
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	r, _ = n.labConnect(5, "c", willing("will/c", 3600, "gone"))
	r.conn.Close()
	n.labConnect(5, "c", lasting)
	// Delayed, and then it comes; also without a payload.
	r, _ = n.labConnect(5, "d", willing("will/d", 1, ""))
	r.conn.Close()
	if m := watcher.hear(); m.TopicName != "will/d" || len(m.Payload) != 0 {
		t.Errorf("got %q on %s", m.Payload, m.TopicName)
	}
	// "Disconnect with will".
	r, _ = n.labConnect(5, "e", willing("will/e", 0, "said so"))
	r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: packets.CodeDisconnectWillMessage.Code})
	watcher.hears("said so")
	watcher.hearsNoMore()
	if ack := n.labDial(5).connect("f", willing("will/#", 0, "x")); ack.ReasonCode != packets.ErrNotAuthorized.Code {
		t.Errorf("a will to a filter: CONNACK 0x%02x", ack.ReasonCode)
	}
}

// TestAnswersThatTheClientCannotTake: what is larger than its Maximum Packet Size is
// not sent, and it does not wait for it.
func TestAnswersThatTheClientCannotTake(t *testing.T) {
	n := startNode(t, withLab(nil))
	r, _ := n.labConnect(5, "small", func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = 60 })
	filters := make([]string, 60)
	for i := range filters {
		filters[i] = fmt.Sprint("t/", i)
	}
	r.send(subscription(1, filters...)) // 60 reason codes
	r.expectEnd(packets.ErrPacketTooLarge.Code)
}

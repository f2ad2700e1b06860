package mqtt

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

func ackOf(kind byte, id uint16) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id}
}

// TestExactlyOnceOnAnotherNode: a session with QoS 2 messages under way in both
// directions moves to another node, while its client is connected or after it has
// left.
func TestExactlyOnceOnAnotherNode(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t, withLab(nil))
	for name, leave := range map[string]func(r *raw, n *node){
		"connected": func(*raw, *node) {},
		"gone": func(r *raw, n *node) {
			r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
			eventually(t, "the claim to say so", func() bool {
				claim, err := n.stored.Lookup(t.Context(), "$lab/"+r.id)
				return err == nil && !claim.Connected
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			topic := "t/" + name
			a, _ := nodes[0].labConnect(5, name, lasting)
			a.id = name
			a.open(2, topic)
			pub := nodes[2].lab("pub")
			for i := range 4 {
				pub.say(publication(topic, fmt.Sprint(i), 2, 0))
			}
			var ids []uint16
			for range 4 {
				ids = append(ids, a.expect(packets.Publish).PacketID)
			}
			a.send(ackOf(packets.Pubrec, ids[1])) // of 0, 1, 2 and 3, it has said to have 1
			a.expect(packets.Pubrel)
			a.send(ackOf(packets.Pubrec, ids[3])) // and is done with 3
			a.expect(packets.Pubrel)
			a.send(ackOf(packets.Pubcomp, ids[3]))
			a.send(publication("other", "mine", 2, 77))
			a.mustBeGood(a.expect(packets.Pubrec)) // and does not release it
			leave(a, nodes[0])

			watcher := nodes[2].lab("watcher")
			watcher.open(2, "other")
			b, ack := nodes[1].labConnect(5, name, lasting)
			if !ack.SessionPresent {
				t.Fatal("no session")
			}
			rel := false
			var again []packets.Packet
			for range 3 {
				if pk := b.expectAny(packets.Publish, packets.Pubrel); pk.FixedHeader.Type == packets.Pubrel {
					rel = pk.PacketID == ids[1]
				} else {
					again = append(again, pk)
				}
			}
			if !rel || len(again) != 2 {
				t.Fatalf("release %v, messages %v", rel, again)
			}
			for i, pk := range again {
				if want := 2 * i; string(pk.Payload) != fmt.Sprint(want) || pk.PacketID != ids[want] || !pk.FixedHeader.Dup {
					t.Errorf("sent again: %s as %d, dup %v; want %d as %d", pk.Payload, pk.PacketID, pk.FixedHeader.Dup, want, ids[want])
				}
				b.send(ackOf(packets.Pubrec, pk.PacketID))
				b.expect(packets.Pubrel)
				b.send(ackOf(packets.Pubcomp, pk.PacketID))
			}
			b.send(ackOf(packets.Pubcomp, ids[1]))
			dup := publication("other", "mine", 2, 77)
			dup.FixedHeader.Dup = true
			b.send(dup)
			b.mustBeGood(b.expect(packets.Pubrec))
			b.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 77})
			b.mustBeGood(b.expect(packets.Pubcomp))
			watcher.hearsNoMore() // it was handled before it subscribed
			pub.say(publication(topic, "4", 2, 0))
			b.hears("4")
			b.hearsNoMore()
		})
	}
}

// TestAMessageThatIsRepeatedGetsTheAnswerOfTheFirst: while the store has not answered
// about it; and what was refused may come again.
func TestAMessageThatIsRepeatedGetsTheAnswerOfTheFirst(t *testing.T) {
	b, cl := &Broker{}, &client{session: session.New(session.Limits{Messages: 1, Bytes: 1}, 1)}
	first, second := &conn{client: cl}, &conn{client: cl}
	cl.conn = first
	before, token := b.receive(first, 7, nil)
	if before != session.Fresh {
		t.Fatalf("got %v", before)
	}
	cl.conn = second
	var answered []byte
	if before, _ = b.receive(second, 7, func(code packets.Code, _ string, _ ...session.Property) { answered = append(answered, code.Code) }); before != session.Pending {
		t.Fatalf("got %v", before)
	}
	for _, again := range b.settleReceipt(cl, 7, token, codeFull) {
		again(codeFull, "")
	}
	if !slices.Equal(answered, []byte{codeFull.Code}) || len(cl.repeats) != 0 {
		t.Errorf("answered % x, %d are left", answered, len(cl.repeats))
	}
	if before, _ = b.receive(second, 7, nil); before != session.Fresh {
		t.Errorf("after a refusal: %v", before)
	}
}

// TestWhatAConnectedClaimSaysOfQoS2IsOutOfDate: an older version of a node may have
// left it there.
func TestWhatAConnectedClaimSaysOfQoS2IsOutOfDate(t *testing.T) {
	n := startNode(t, withLab(nil))
	state, err := json.Marshal(savedSession{QoS2: session.Handover{Handled: []uint16{7}}})
	if err != nil {
		t.Fatal(err)
	}
	claim := cluster.Claim{Node: "older", Connection: 1, Connected: true, Outlives: true, Expires: time.Now().Add(time.Hour), State: state}
	if _, err := n.stored.Write(t.Context(), "$lab/a", claim); err != nil {
		t.Fatal(err)
	}
	watcher := n.lab("watcher")
	watcher.open(2, "t")
	a, ack := n.labConnect(5, "a", lasting)
	if !ack.SessionPresent {
		t.Fatal("no session")
	}
	a.say(publication("t", "fresh", 2, 0)) // as 7
	watcher.hears("fresh")
}

// TestASessionThatIsAheadOfTheLogGoesOnAtItsEnd: the log was brought back from a
// backup, or has lost its disks. What the session had then is not confused with what
// now has its places.
func TestASessionThatIsAheadOfTheLogGoesOnAtItsEnd(t *testing.T) {
	t.Parallel()
	n := startNode(t, withLab(nil))
	state, err := json.Marshal(savedSession{
		Subscriptions: []session.Subscription{{Filter: "t", QoS: 2, Since: 1000}}, Inbox: 1002,
		QoS2: session.Handover{Sent: []session.Sent{{ID: 7, Sequence: 1001}}, Done: []uint64{2, 3, 4, 1002}},
	})
	if err != nil {
		t.Fatal(err)
	}
	claim := cluster.Claim{Node: "lost", Connection: 1, Outlives: true, Expires: time.Now().Add(time.Hour), State: state}
	if _, err := n.stored.Write(t.Context(), "$lab/a", claim); err != nil {
		t.Fatal(err)
	}
	a, ack := n.labConnect(5, "a", lasting)
	if !ack.SessionPresent {
		t.Fatal("no session")
	}
	if pk := a.expect(packets.Pubrel); pk.PacketID != 7 {
		t.Errorf("released %d", pk.PacketID)
	}
	pub := n.lab("pub")
	for _, payload := range []string{"one", "two", "three"} {
		pub.say(publication("t", payload, 2, 0))
		a.hears(payload)
	}
}

// TestTwoConnectsAtOnceOnAnotherNode: the second one does not lose what the first is
// bringing.
func TestTwoConnectsAtOnceOnAnotherNode(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t, withLab(nil), withLimits(func(l *Limits) { l.TakeoversPerMinute = 1_000_000 }))
	a := nodes[0].lab("pub")
	watcher, _ := nodes[0].labConnect(5, "moving", lasting)
	watcher.open(2, "t")
	for round := range 20 {
		a.say(publication("t", fmt.Sprint(round), 2, 0))
		id := watcher.expect(packets.Publish).PacketID
		watcher.send(ackOf(packets.Pubrec, id))
		watcher.expect(packets.Pubrel)
		there := nodes[1+round%2]
		both := []*raw{there.labDial(5), there.labDial(5)}
		for _, r := range both {
			r.knock("moving", lasting)
		}
		for _, r := range both {
			_, _ = r.read() // CONNACK, or the end: the other one was faster
		}
		var ack packets.Packet
		if watcher, ack = there.labConnect(5, "moving", lasting); !ack.SessionPresent {
			t.Fatalf("round %d: no session", round)
		}
		if pk := watcher.expectAny(packets.Pubrel, packets.Publish); pk.FixedHeader.Type != packets.Pubrel || pk.PacketID != id {
			t.Fatalf("round %d: got type %d, id %d, %s; PUBREL of %d is due", round, pk.FixedHeader.Type, pk.PacketID, pk.Payload, id)
		}
		watcher.send(ackOf(packets.Pubcomp, id))
	}
	watcher.hearsNoMore()
}

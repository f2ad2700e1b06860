package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// TestSharedOnAnyFilter: each message goes to one member, whatever the QoS; what a
// member has not acknowledged when it goes, another gets; and nothing is parked on
// one that is away.
func TestSharedOnAnyFilter(t *testing.T) {
	n := startNode(t, withLab(nil))
	const filter = "$share/g/work/#"
	a, _ := n.labConnect(5, "a", lasting)
	b, _ := n.labConnect(5, "b", lasting)
	c := n.lab("c")
	pub := n.lab("pub")
	pub.say(retained("work/kept", "not for groups", 1))
	pub.say(publication("work", "from before", 1, 0))
	a.open(1, filter)
	b.open(2, filter)
	c.open(1, "work/#")
	c.hears("not for groups")

	const messages = 30
	for i := range messages {
		pub.say(publication("work/x", fmt.Sprint(i), byte(i%3), 0))
	}
	// Both have room for all; they take turns. a acknowledges nothing.
	unacknowledged, heard := []string{}, map[string]int{}
	for range messages / 2 {
		if m := a.expect(packets.Publish); m.FixedHeader.Qos > 0 {
			unacknowledged = append(unacknowledged, string(m.Payload))
		} else {
			heard[string(m.Payload)]++ // and at most once
		}
	}
	a.conn.Close()
	for range messages/2 + len(unacknowledged) {
		heard[string(b.hear().Payload)]++
	}
	if len(unacknowledged) == 0 {
		t.Error("every message was of QoS 0")
	}
	for i := range messages {
		c.hears(fmt.Sprint(i)) // who is subscribed by himself gets all
		if n := heard[fmt.Sprint(i)]; n != 1 {
			t.Errorf("%d was heard %d times", i, n)
		}
	}
	b.conn.Close()
	eventually(t, "both members gone", func() bool { c, _ := n.edge.counts(); return c == 2 })
	for i := range 10 {
		pub.say(publication("work", fmt.Sprint("nobody there ", i), 1, 0))
	}
	a, _ = n.labConnect(5, "a", lasting) // and b stays away
	late := map[string]bool{}
	for range 10 {
		late[string(a.hear().Payload)] = true
	}
	if len(late) != 10 || !late["nobody there 9"] {
		t.Errorf("got %v", late)
	}
	a.hearsNoMore()
}

func TestSharedFiltersThatAreRefused(t *testing.T) {
	n := startNode(t, withLab(nil))
	r := n.lab("r")
	r.send(subscription(1, "$share/g", "$share//x", "$share/a+b/x", "$share/g/a#", strings.Repeat("é", 30000)))
	codes := r.expect(packets.Suback).ReasonCodes
	if slices.ContainsFunc(codes, func(c byte) bool { return c != packets.ErrTopicFilterInvalid.Code }) || len(codes) != 5 {
		t.Errorf("SUBACK % x", codes)
	}
	shared := subscription(2, "$share/g/x")
	shared.Filters[0].NoLocal = true
	r.send(shared)
	r.expectEnd(packets.ErrProtocolViolation.Code) // [MQTT-3.8.3-4]
}

// TestSharedAcrossNodes: a group has its members on every node.
func TestSharedAcrossNodes(t *testing.T) {
	t.Parallel()
	nodes := startTrio(t, withLab(nil))
	members := make(chan string, 100)
	for i, n := range nodes[:2] {
		r := n.lab(fmt.Sprint("member-", i))
		r.open(1, "$share/g/t")
		go func() { // ends with the connection
			for {
				pk, err := r.read()
				if err != nil {
					return
				}
				if pk.FixedHeader.Type == packets.Publish {
					members <- fmt.Sprint(i, " ", string(pk.Payload))
					_, _ = r.conn.Write(r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}))
				}
			}
		}()
	}
	pub := nodes[2].lab("pub")
	for i := range 40 {
		pub.say(publication("t", fmt.Sprint(i), 1, 0))
	}
	by, heard := map[string]int{}, map[string]bool{}
	for range 40 {
		var next string
		select {
		case next = <-members:
		case <-time.After(patience):
			t.Fatalf("no more came after %v", by)
		}
		who, what, _ := strings.Cut(next, " ")
		if heard[what] {
			t.Errorf("%s was heard twice", what)
		}
		heard[what] = true
		by[who]++
	}
	if len(by) != 2 {
		t.Errorf("who heard how many: %v", by)
	}
}

// TestASharedSubscriptionIsServedAsLongAsSomebodyHasIt: there may be many over time.
func TestASharedSubscriptionIsServedAsLongAsSomebodyHasIt(t *testing.T) {
	t.Parallel()
	n := startNode(t, withLab(nil))
	served := func() int {
		p := n.edge.lab
		p.groupsMu.Lock()
		defer p.groupsMu.Unlock()
		return len(p.groups)
	}
	pub := n.lab("pub")
	stays, _ := n.labConnect(5, "stays", lasting)
	stays.open(1, "$share/g/t")
	for i := range 5 {
		r := n.lab("goes")
		r.open(1, "$share/g/t", fmt.Sprintf("$share/g/t/%d", i), fmt.Sprintf("$share/h/t/%d", i))
		if i%2 == 0 {
			r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 1, Filters: packets.Subscriptions{
				{Filter: "$share/g/t"}, {Filter: fmt.Sprintf("$share/g/t/%d", i)}, {Filter: fmt.Sprintf("$share/h/t/%d", i)},
			}})
			r.await(packets.Unsuback)
		}
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		eventually(t, "only what is subscribed to to be served", func() bool { return served() == 1 })
		pub.say(publication("t", fmt.Sprint(i), 1, 0))
		stays.hears(fmt.Sprint(i))
	}
	stays.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	pub.say(publication("t", "while it is away", 1, 0))
	stays, _ = n.labConnect(5, "stays", lasting)
	stays.hears("while it is away")
	stays.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	n.lab("stays") // with a clean start
	eventually(t, "nothing to be served", func() bool { return served() == 0 })
}

package mqtt

import (
	"bufio"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

func withLab(change func(*Lab)) option {
	return func(n *node) {
		n.cfg.Lab = DefaultLab()
		n.cfg.Lab.Listen = "127.0.0.1:0"
		n.store.MaxOpenBytes = 16 << 20
		if change != nil {
			change(&n.cfg.Lab)
		}
	}
}

// labDial makes the connection only.
func (n *node) labDial(version byte) *raw {
	n.t.Helper()
	c, err := net.Dial("tcp", n.edge.LabAddr())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return &raw{t: n.t, conn: c, in: bufio.NewReader(c), version: version}
}

// labConnect sends CONNECT and wants it accepted.
func (n *node) labConnect(version byte, clientID string, change func(*packets.Packet)) (*raw, packets.Packet) {
	n.t.Helper()
	var r *raw
	var ack packets.Packet
	n.unlessElecting(func() byte {
		r = n.labDial(version)
		ack = r.connect(clientID, change)
		if ack.ReasonCode != 0 && !n.electing(ack.ReasonCode) {
			n.t.Fatalf("CONNACK 0x%02x %s", ack.ReasonCode, ack.Properties.ReasonString)
		}
		return ack.ReasonCode
	})
	return r, ack
}

func (n *node) lab(clientID string) *raw {
	n.t.Helper()
	r, _ := n.labConnect(5, clientID, nil)
	return r
}

// lasting asks for a session that outlives the connection.
func lasting(pk *packets.Packet) {
	pk.Connect.Clean = false
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 3600, true
}

// open subscribes with a QoS and wants it granted.
func (r *raw) open(qos byte, filters ...string) {
	r.t.Helper()
	r.openAs(func(s *packets.Subscription) { s.Qos = qos }, filters...)
}

func (r *raw) openAs(change func(*packets.Subscription), filters ...string) {
	r.t.Helper()
	pk := subscription(1, filters...)
	for i := range pk.Filters {
		change(&pk.Filters[i])
		if pk.Filters[i].Identifier > 0 {
			pk.Properties.SubscriptionIdentifier = []int{pk.Filters[i].Identifier}
		}
	}
	r.send(pk)
	for i, code := range r.await(packets.Suback).ReasonCodes {
		if code != pk.Filters[i].Qos {
			r.t.Fatalf("%s: SUBACK 0x%02x", filters[i], code)
		}
	}
}

// say publishes and does what the QoS asks for.
func (r *raw) say(pk packets.Packet) {
	r.t.Helper()
	pk.PacketID = 0
	if pk.FixedHeader.Qos > 0 {
		pk.PacketID = 7
	}
	r.send(pk)
	switch pk.FixedHeader.Qos {
	case 1:
		r.mustBeGood(r.await(packets.Puback))
	case 2:
		r.mustBeGood(r.await(packets.Pubrec))
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: 7})
		r.mustBeGood(r.await(packets.Pubcomp))
	}
}

func (r *raw) mustBeGood(pk packets.Packet) {
	r.t.Helper()
	if pk.ReasonCode != 0 {
		r.t.Fatalf("%s 0x%02x %s", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode, pk.Properties.ReasonString)
	}
}

// await returns the next packet of that type; messages that come before it wait for
// hear.
func (r *raw) await(kind byte) packets.Packet {
	r.t.Helper()
	for {
		pk := r.expectAny(kind, packets.Publish)
		if pk.FixedHeader.Type == kind {
			return pk
		}
		r.early = append(r.early, pk)
	}
}

// hear takes the next message and does what its QoS asks for.
func (r *raw) hear() packets.Packet {
	r.t.Helper()
	var m packets.Packet
	if len(r.early) > 0 {
		m, r.early = r.early[0], r.early[1:]
	} else {
		m = r.expect(packets.Publish)
	}
	switch m.FixedHeader.Qos {
	case 1:
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: m.PacketID})
	case 2:
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: m.PacketID})
		if rel := r.await(packets.Pubrel); rel.PacketID != m.PacketID || rel.ReasonCode != 0 {
			r.t.Fatalf("PUBREL of %d 0x%02x", rel.PacketID, rel.ReasonCode)
		}
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubcomp}, PacketID: m.PacketID})
	}
	return m
}

// hears wants these payloads, in that order, and nothing before them.
func (r *raw) hears(want ...string) {
	r.t.Helper()
	for _, w := range want {
		if m := r.hear(); string(m.Payload) != w {
			r.t.Fatalf("heard %q on %q, want %q", m.Payload, m.TopicName, w)
		}
	}
}

// hearsNoMore wants that nothing has come, by way of what comes later: a message on
// a topic of its own.
func (r *raw) hearsNoMore() {
	r.t.Helper()
	r.open(1, "the-end")
	r.say(publication("the-end", "the end", 0, 0))
	r.hears("the end")
}

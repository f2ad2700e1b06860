package mqtt

import (
	"io"
	"slices"
	"testing"

	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// FuzzConnection sends anything over a real connection, as a device that has
// connected or as one that has not. Whatever it is, the connection ends when the
// client has nothing more to say, and others are served.
func FuzzConnection(f *testing.F) {
	const before, old, lab = 1, 2, 4 // what comes before the bytes, and where
	n := startNode(f, withLab(nil), withLimits(func(l *Limits) { l.TakeoversPerMinute = 1_000_000 }))
	credential := deviceCredential(f, "cam-1")
	r5, r4 := &raw{t: f, version: 5}, &raw{t: f, version: 4}
	publish := func(topic string, qos byte, id uint16) packets.Packet {
		return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, PacketID: id, Payload: []byte("x")}
	}
	for _, r := range []*raw{r5, r4} {
		version := byte(0)
		if r.version == 4 {
			version = old
		}
		f.Add(version|before, r.encode(publish(topics.DeviceStatus("cam-1"), 1, 7)))
		f.Add(version|before, r.encode(publish(topics.DeviceStatus("cam-1"), 2, 7)))
		f.Add(version|before, slices.Concat(
			r.encode(subscription(1, topics.DeviceAssignment("cam-1"), topics.DeviceCommand("cam-1"))),
			r.encode(publish("elsewhere", 0, 0)),
			r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: 1}),
			r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})))
		f.Add(version, r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: "cam-1", Keepalive: 60,
			WillFlag: true, WillTopic: topics.DeviceStatus("cam-1"), WillPayload: []byte("x"),
		}}))
		rec := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: 1}
		kept := retained("a/c", "x", 1)
		kept.PacketID = 3
		f.Add(version|before|lab, slices.Concat(
			r.encode(subscription(1, "#", "$share/g/+/b")),
			r.encode(publish("a/b", 2, 1)), r.encode(kept), r.encode(publish("a/b", 2, 1)), r.encode(rec), r.encode(pubrel(1)), r.encode(pubrel(2)),
			r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: 2, Filters: packets.Subscriptions{{Filter: "#"}}})))
		aliased := publication("a/b", "x", 1, 1)
		aliased.Properties = packets.Properties{TopicAlias: 1, TopicAliasFlag: true, MessageExpiryInterval: 1, ContentType: "c", ResponseTopic: "r", CorrelationData: []byte{0}}
		f.Add(version|before|lab, r.encode(aliased))
		f.Add(version|lab, r.encode(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Keepalive: 60, Clean: true, WillFlag: true, WillTopic: "w", WillRetain: true, WillQos: 2,
		}}))
	}
	f.Add(byte(before), []byte{0x82, 3, 0, 1, 0}) // a SUBSCRIBE that ends too early: mochi indexes past its end
	f.Add(byte(before), []byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, how byte, data []byte) {
		here := *n
		here.t = t
		version := byte(5)
		if how&old != 0 {
			version = 4
		}
		var r *raw
		if how&lab != 0 {
			r = here.labDial(version)
		} else {
			r = here.rawDial(credential, version)
		}
		if how&before != 0 {
			r.connect("cam-1", nil)
		}
		if _, err := r.conn.Write(data); err == nil {
			err = r.conn.(interface{ CloseWrite() error }).CloseWrite()
			if err != nil {
				t.Log(err) // it was faster
			}
		}
		if _, err := io.Copy(io.Discard, r.in); isTimeout(err) {
			t.Fatalf("the connection does not end: %v", err)
		}
		_ = r.conn.Close()
		if err := n.edge.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

package mqttclient

import (
	"context"
	"errors"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

var flight = Flight{
	Subscribe: []Subscription{{Filter: "mine", QoS: 1}, {Filter: "theirs", QoS: 1}},
	Publish:   []Publication{{Topic: "a", Payload: []byte("1"), QoS: 1}, {Topic: "b", Payload: []byte("2"), QoS: 1}},
}

// dialled is a Dial under way.
type dialled struct {
	s   *Session
	err error
}

func dialWith(ctx context.Context, cfg Config, f Flight) <-chan dialled {
	out := make(chan dialled, 1)
	go func() {
		s, err := DialWith(ctx, cfg, f)
		out <- dialled{s, err}
	}()
	return out
}

// takeFlight reads a whole flight, before it answers anything.
func takeFlight(t *testing.T, p *peer) (conn *peerConn, sub *packets.Subscribe, pubs []*packets.Publish) {
	t.Helper()
	conn = within(t, "connection", p.conns)
	if _, ok := conn.read().Content.(*packets.Connect); !ok {
		t.Fatal("first packet is not CONNECT")
	}
	sub, ok := conn.read().Content.(*packets.Subscribe)
	if !ok {
		t.Fatal("second packet is not SUBSCRIBE")
	}
	return conn, sub, []*packets.Publish{conn.readPublish(), conn.readPublish()}
}

func TestFlightLeavesWithConnectAndEachAnswerFindsItsPacket(t *testing.T) {
	p := newPeer(t)
	got := dialWith(t.Context(), base(p), flight)
	conn, sub, pubs := takeFlight(t, p)
	conn.write(&packets.Connack{Properties: &packets.Properties{}})
	d := within(t, "session", got)
	if d.err != nil {
		t.Fatal(d.err)
	}
	conn.write(&packets.Puback{PacketID: pubs[1].PacketID, ReasonCode: 0x97, Properties: &packets.Properties{}})
	conn.write(&packets.Suback{PacketID: sub.PacketID, Reasons: []byte{1, 0x87}, Properties: &packets.Properties{}})
	conn.write(&packets.Puback{PacketID: pubs[0].PacketID, Properties: &packets.Properties{}})
	landing, err := d.s.Landed(t.Context())
	if err != nil || landing.Published[0] != nil {
		t.Fatalf("landed: %v, %+v", err, landing)
	}
	wantRefused(t, landing.Subscribed, "SUBACK", 0x87)
	wantRefused(t, landing.Published[1], "PUBACK", 0x97)

	// The session goes on with identifiers of its own.
	later := async(func() error { return d.s.Publish(t.Context(), Publication{Topic: "c", QoS: 1}) })
	third := conn.readPublish()
	conn.write(&packets.Puback{PacketID: third.PacketID, Properties: &packets.Properties{}})
	if err := within(t, "publish", later); err != nil {
		t.Fatal(err)
	}
	d.s.Close()
}

func TestFlightOfALostConnectionIsNoSuccess(t *testing.T) {
	p := newPeer(t)
	got := dialWith(t.Context(), base(p), flight)
	conn, sub, pubs := takeFlight(t, p)
	conn.write(&packets.Connack{Properties: &packets.Properties{}})
	d := within(t, "session", got)
	if d.err != nil {
		t.Fatal(d.err)
	}
	conn.write(&packets.Suback{PacketID: sub.PacketID, Reasons: []byte{1, 1}, Properties: &packets.Properties{}})
	conn.write(&packets.Puback{PacketID: pubs[0].PacketID, Properties: &packets.Properties{}})
	conn.Close()
	landing, err := d.s.Landed(t.Context())
	if !errors.Is(err, ErrConnectionLost) || landing.Subscribed != nil || landing.Published[0] != nil || !errors.Is(landing.Published[1], ErrConnectionLost) {
		t.Errorf("%v, %+v", err, landing)
	}
	d.s.Close()
}

func TestRefusedConnectRefusesTheFlight(t *testing.T) {
	p := newPeer(t)
	got := dialWith(t.Context(), base(p), flight)
	conn, _, _ := takeFlight(t, p)
	conn.write(&packets.Connack{ReasonCode: 0x87, Properties: &packets.Properties{}})
	wantRefused(t, within(t, "dialling", got).err, "CONNACK", 0x87)
}

func TestFlightIsBounded(t *testing.T) {
	p := newPeer(t)
	many := Flight{Publish: make([]Publication, MaxFlight+1)}
	large := Flight{Publish: []Publication{{Topic: "a", QoS: 1, Payload: make([]byte, MaxFlightBytes)}}}
	for _, f := range []Flight{many, large, {Publish: []Publication{{Topic: "a"}}}, {Subscribe: []Subscription{{Filter: "a", QoS: 2}}}} {
		if _, err := DialWith(t.Context(), base(p), f); err == nil {
			t.Errorf("taken: %d publications", len(f.Publish))
		}
	}
}

func TestDisconnectAcknowledgesFirst(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	handling, handled := make(chan struct{}), make(chan struct{})
	cfg.OnMessage = func(Message) {
		close(handling)
		<-handled
	}
	got := dialWith(t.Context(), cfg, flight)
	conn, _, _ := takeFlight(t, p)
	conn.write(&packets.Connack{Properties: &packets.Properties{}})
	d := within(t, "session", got)
	if d.err != nil {
		t.Fatal(d.err)
	}
	conn.write(&packets.Publish{Topic: "mine", QoS: 1, PacketID: 7, Properties: &packets.Properties{}})
	within(t, "message", handling)
	gone := async(func() error { d.s.Disconnect(); return nil })
	close(handled)
	if ack, ok := conn.read().Content.(*packets.Puback); !ok || ack.PacketID != 7 {
		t.Error("it disconnected without acknowledging")
	}
	within(t, "disconnect", gone)
}

func TestAnswerOfAnotherKindIsNoSuccess(t *testing.T) {
	p := newPeer(t)
	got := dialWith(t.Context(), base(p), flight)
	conn, sub, pubs := takeFlight(t, p)
	conn.write(&packets.Connack{Properties: &packets.Properties{}})
	d := within(t, "session", got)
	if d.err != nil {
		t.Fatal(d.err)
	}
	conn.write(&packets.Puback{PacketID: sub.PacketID, Properties: &packets.Properties{}})
	conn.write(&packets.Suback{PacketID: pubs[0].PacketID, Reasons: []byte{1}, Properties: &packets.Properties{}})
	conn.write(&packets.Puback{PacketID: pubs[1].PacketID, Properties: &packets.Properties{}})
	landing, err := d.s.Landed(t.Context())
	if !errors.Is(err, errOtherAnswer) || landing.Subscribed == nil || landing.Published[0] == nil || landing.Published[1] != nil {
		t.Errorf("%v, %+v", err, landing)
	}
	d.s.Close()
}

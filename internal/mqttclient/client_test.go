package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// base is a configuration for tests: no patience for backoff, endless patience
// for acknowledgements.
func base(p *peer) Config {
	return Config{
		Servers: []string{p.url()}, ClientID: "cam-1", AckTimeout: time.Hour, ConnectTimeout: patience,
		Backoff: Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond}, SessionExpiry: time.Hour,
	}
}

func upSignal(cfg *Config) <-chan bool {
	up := make(chan bool, 16)
	cfg.OnUp = func(_ context.Context, _ *Client, present bool) error { up <- present; return nil }
	return up
}

func async(f func() error) <-chan error {
	out := make(chan error, 1)
	go func() { out <- f() }()
	return out
}

func TestPublishSucceedsOnlyWithASuccessfulPuback(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	up := upSignal(&cfg)
	c, _, _ := start(t, cfg)
	conn := p.accept(0)
	within(t, "up", up)

	for _, code := range []byte{0, 0x10, 0x80, 0x87, 0x97} {
		result := async(func() error {
			return c.Publish(t.Context(), Publication{Topic: "a", Payload: []byte("x"), QoS: 1,
				Properties: []Property{{"k", "v"}}, Expiry: 1500 * time.Millisecond})
		})
		got := conn.readPublish()
		if len(got.Properties.User) != 1 || *got.Properties.MessageExpiry != 2 {
			t.Fatalf("properties: %+v", got.Properties)
		}
		select {
		case err := <-result:
			t.Fatalf("returned before PUBACK: %v", err)
		default:
		}
		conn.write(&packets.Puback{PacketID: got.PacketID, ReasonCode: code, Properties: &packets.Properties{ReasonString: "why"}})
		err := within(t, "publish", result)
		if code < 0x80 {
			if err != nil {
				t.Fatalf("0x%02X: %v", code, err)
			}
			continue
		}
		wantRefused(t, err, "PUBACK", code)
		if !strings.Contains(err.Error(), "why") || !strings.Contains(err.Error(), " for a") {
			t.Errorf("error does not explain: %v", err)
		}
	}
}

func TestUnansweredPublishFailsWithTheConnectionAndIsNotSentAgain(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	up := upSignal(&cfg)
	c, _, _ := start(t, cfg)
	conn := p.accept(0)
	within(t, "up", up)

	result := async(func() error { return c.Publish(t.Context(), Publication{Topic: "old", QoS: 1}) })
	conn.readPublish()
	conn.Close()
	if err := within(t, "publish", result); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("got %v, want ErrConnectionLost", err)
	}

	conn = p.accept(0, func(a *packets.Connack) { a.SessionPresent = true })
	if !within(t, "second up", up) {
		t.Fatal("session present was lost")
	}
	result = async(func() error { return c.Publish(t.Context(), Publication{Topic: "new", QoS: 1}) })
	got := conn.readPublish()
	if got.Topic != "new" {
		t.Fatalf("after the reconnect came %q", got.Topic)
	}
	conn.write(&packets.Puback{PacketID: got.PacketID, Properties: &packets.Properties{}})
	if err := within(t, "publish", result); err != nil {
		t.Fatal(err)
	}
}

func TestPublishWithoutConnectionSendsNothing(t *testing.T) {
	c, err := New(base(newPeer(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), Publication{Topic: "a", QoS: 1}); !errors.Is(err, ErrNotConnected) {
		t.Fatalf("got %v", err)
	}
	if c.Connected() {
		t.Fatal("connected")
	}
}

func TestPublicationLargerThanTheBrokerTakesIsNotSent(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	up := upSignal(&cfg)
	c, _, _ := start(t, cfg)
	limit := uint32(100)
	p.accept(0, func(a *packets.Connack) { a.Properties.MaximumPacketSize = &limit })
	within(t, "up", up)
	err := c.Publish(t.Context(), Publication{Topic: "a", Payload: make([]byte, 101), QoS: 1})
	if !errors.Is(err, ErrPacketTooLarge) || !c.Connected() {
		t.Fatalf("got %v, connected %v", err, c.Connected())
	}
}

func TestRefusedConnectIsReportedAndTriedAgain(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	refused := make(chan error, 16)
	cfg.OnConnectError = func(err error) { refused <- err }
	up := upSignal(&cfg)
	start(t, cfg)
	p.accept(0x87)
	wantRefused(t, within(t, "refusal", refused), "CONNACK", 0x87)
	p.accept(0)
	within(t, "up", up)
}

func TestRefusedFilterIsNamed(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	result := make(chan error, 1)
	cfg.OnUp = func(ctx context.Context, c *Client, _ bool) error {
		result <- c.Subscribe(ctx, []Subscription{{Filter: "mine", QoS: 1}, {Filter: "theirs", QoS: 1}})
		return nil
	}
	start(t, cfg)
	conn := p.accept(0)
	sub := conn.read().Content.(*packets.Subscribe)
	conn.write(&packets.Suback{PacketID: sub.PacketID, Reasons: []byte{1, 0x87}, Properties: &packets.Properties{}})
	err := within(t, "suback", result)
	wantRefused(t, err, "SUBACK", 0x87)
	if !strings.Contains(err.Error(), "theirs") || strings.Contains(err.Error(), "mine") {
		t.Fatalf("got %v", err)
	}
}

func TestFailedSetUpDropsTheConnectionAndBacksOff(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	tries := make(chan int, 16)
	n := 0
	cfg.OnUp = func(context.Context, *Client, bool) error {
		n++
		tries <- n
		if n < 3 {
			return errors.New("cannot subscribe")
		}
		return nil
	}
	c, _, _ := start(t, cfg)
	for want := 1; want <= 3; want++ {
		p.accept(0)
		if got := within(t, "set-up", tries); got != want {
			t.Fatalf("try %d, want %d", got, want)
		}
	}
	if c.attempts < 3 {
		t.Errorf("short connections reset the backoff: %d", c.attempts)
	}
}

// A broker that lets us in and hangs up does not keep us from the next one.
func TestServerThatDropsUsIsNotTriedFirstAgain(t *testing.T) {
	bad, good := newPeer(t), newPeer(t)
	cfg := base(bad)
	cfg.Servers = append(cfg.Servers, good.url())
	up := upSignal(&cfg)
	start(t, cfg)
	bad.accept(0).Close()
	good.accept(0)
	within(t, "up at the first", up)
	within(t, "up at the second", up)
}

func TestServersReasonForDisconnectIsReported(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	up := upSignal(&cfg)
	down := make(chan error, 4)
	cfg.OnDown = func(err error) { down <- err }
	start(t, cfg)
	conn := p.accept(0)
	within(t, "up", up)
	conn.write(&packets.Disconnect{ReasonCode: 0x8E, Properties: &packets.Properties{}})
	conn.Close()
	err := within(t, "down", down)
	wantRefused(t, err, "DISCONNECT", 0x8E)
	if !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("got %v", err)
	}
}

func TestOversizedPacketEndsTheConnectionBeforeItIsBuffered(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	cfg.MaxPacketSize = 1000
	down := make(chan error, 4)
	cfg.OnDown = func(err error) { down <- err }
	start(t, cfg)
	conn := p.accept(0)
	if _, err := conn.Conn.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}); err != nil { // PUBLISH of 268 MB
		t.Fatal(err)
	}
	if err := within(t, "down", down); !errors.Is(err, ErrPacketTooLarge) {
		t.Fatalf("got %v", err)
	}
}

func publishTo(conn *peerConn, id uint16) {
	conn.write(&packets.Publish{Topic: fmt.Sprint("t/", id), PacketID: id, QoS: 1, Payload: []byte("p"), Properties: &packets.Properties{}})
}

func TestManualAcksLeaveInOrderOfArrival(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	cfg.ManualAck = true
	got := make(chan Message, 16)
	cfg.OnMessage = func(m Message) { got <- m }
	start(t, cfg)
	conn := p.accept(0)
	var messages []Message
	for id := uint16(1); id <= 3; id++ {
		publishTo(conn, id)
		messages = append(messages, within(t, "message", got))
	}
	for _, i := range []int{2, 1, 0} { // the last first
		if err := messages[i].Ack(); err != nil {
			t.Fatal(err)
		}
	}
	for want := uint16(1); want <= 3; want++ {
		if ack := conn.read().Content.(*packets.Puback); ack.PacketID != want {
			t.Fatalf("acknowledged %d, want %d", ack.PacketID, want)
		}
	}
}

func TestUnacknowledgedMessageIsNotAcknowledgedByItsSuccessor(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	cfg.ManualAck = true
	got := make(chan Message, 16)
	cfg.OnMessage = func(m Message) { got <- m }
	up := upSignal(&cfg)
	c, _, _ := start(t, cfg)
	conn := p.accept(0)
	within(t, "up", up)
	publishTo(conn, 1)
	publishTo(conn, 2)
	first, second := within(t, "message", got), within(t, "message", got)
	if err := second.Ack(); err != nil {
		t.Fatal(err)
	}
	// What the client sends next is the probe, not an acknowledgement of 2.
	result := async(func() error { return c.Publish(t.Context(), Publication{Topic: "probe", QoS: 1}) })
	if conn.readPublish().Topic != "probe" {
		t.Fatal("not the probe")
	}
	conn.Close()
	within(t, "publish", result)
	if err := first.Ack(); !errors.Is(err, ErrConnectionLost) {
		t.Fatalf("ack on a lost connection: %v", err)
	}
}

func TestRunStopsOrderlyAndSaysGoodbye(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	inUp, outUp := make(chan struct{}), make(chan struct{})
	cfg.OnUp = func(ctx context.Context, _ *Client, _ bool) error {
		close(inUp)
		<-ctx.Done() // ends with the connection
		close(outUp)
		return ctx.Err()
	}
	c, cancel, done := start(t, cfg)
	conn := p.accept(0)
	within(t, "OnUp", inUp)
	cancel()
	if err := within(t, "Run", done); err != nil {
		t.Fatal(err)
	}
	select {
	case <-outUp:
	default:
		t.Fatal("OnUp still runs after Run returned")
	}
	if got := conn.read(); got.Type != packets.DISCONNECT {
		t.Fatalf("last packet has type %d", got.Type)
	}
	if c.Connected() {
		t.Fatal("still connected")
	}
}

func TestBackoffGrowsToItsLimitAndStartsAtOnce(t *testing.T) {
	c, err := New(Config{Servers: []string{"mqtt://h:1"}, ClientID: "x", Backoff: Backoff{Min: time.Second, Max: 20 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	if d := c.pause(0); d != 0 {
		t.Fatalf("first attempt waits %v", d)
	}
	for i, limit := range []time.Duration{1, 2, 4, 8, 16, 20, 20, 20} {
		if d := c.pause(0); d < 0 || d > limit*time.Second {
			t.Errorf("pause %d is %v, limit %v", i, d, limit*time.Second)
		}
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for _, servers := range [][]string{nil, {"h:1"}, {"http://h:1"}, {"mqtt://h"}, {"mqtts://h:1"}, {"mqtt://:1"}} {
		if _, err := New(Config{Servers: servers, ClientID: "x"}); err == nil {
			t.Errorf("%q accepted", servers)
		}
	}
	if _, err := New(Config{Servers: []string{"mqtt://h:1"}}); err == nil {
		t.Error("empty client id accepted")
	}
	for field, c := range map[string]Config{
		"keep alive":     {KeepAlive: MaxKeepAlive + time.Millisecond},
		"session expiry": {SessionExpiry: MaxExpiry + time.Millisecond},
	} {
		c.Servers, c.ClientID = []string{"mqtt://h:1"}, "x"
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestDurationsBecomeWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		0: 0, 1: 1, time.Second: 1, time.Second + 1: 2, 1500 * time.Millisecond: 2,
		MaxExpiry - 1: 1<<32 - 1, MaxExpiry: 1<<32 - 1, MaxExpiry + 1: 1<<32 - 1, 1<<63 - 1: 1<<32 - 1,
	} {
		if got := wholeSeconds(d); got != want {
			t.Errorf("%v: got %d s, want %d", d, got, want)
		}
	}
	c := Config{KeepAlive: MaxKeepAlive, SessionExpiry: MaxExpiry}
	if p := c.connect(false); p.KeepAlive != 65535 || *p.Properties.SessionExpiryInterval != 1<<32-1 {
		t.Errorf("CONNECT has %d s and %d s", p.KeepAlive, *p.Properties.SessionExpiryInterval)
	}
}

func TestDialIsOneConnection(t *testing.T) {
	p := newPeer(t)
	cfg := base(p)
	got := make(chan Message, 1)
	cfg.OnMessage = func(m Message) { got <- m }
	type result struct {
		s   *Session
		err error
	}
	dialled := make(chan result, 1)
	open := func() {
		go func() {
			s, err := Dial(t.Context(), cfg)
			dialled <- result{s, err}
		}()
	}

	open()
	p.accept(0x89)
	wantRefused(t, within(t, "dial", dialled).err, "CONNACK", 0x89)

	open()
	conn := p.accept(0, func(a *packets.Connack) { a.SessionPresent = true })
	r := within(t, "dial", dialled)
	if r.err != nil || !r.s.SessionPresent || r.s.Err() != nil {
		t.Fatalf("%+v", r)
	}
	publishTo(conn, 7)
	if m := within(t, "message", got); m.Topic != "t/7" {
		t.Fatalf("got %+v", m)
	}
	if ack := conn.read().Content.(*packets.Puback); ack.PacketID != 7 {
		t.Fatalf("got %+v", ack)
	}
	conn.write(&packets.Disconnect{ReasonCode: 0x8B, Properties: &packets.Properties{}})
	conn.Close()
	within(t, "done", r.s.Done())
	wantRefused(t, r.s.Err(), "DISCONNECT", 0x8B)
	r.s.Disconnect() // returns although the connection is gone
	if err := r.s.Publish(t.Context(), Publication{Topic: "a", QoS: 1}); !errors.Is(err, ErrNotConnected) {
		t.Fatalf("got %v", err)
	}
}

// FuzzFraming: whatever the bytes and however they are cut, the follower comes
// to the same verdict and never lets an oversized packet pass.
func FuzzFraming(f *testing.F) {
	f.Add([]byte{0x30, 3, 1, 2, 3, 0xe0, 1, 0x8e}, 2)
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 1)
	f.Add([]byte{0x30, 0x80, 0x80, 0x80, 0x80, 1}, 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		whole := framing{max: 100}
		wholeErr := whole.advance(data)
		pieces := framing{max: 100}
		var piecesErr error
		size := max(1, cut%7)
		for rest := data; len(rest) > 0 && piecesErr == nil; {
			n := min(size, len(rest))
			piecesErr = pieces.advance(rest[:n])
			rest = rest[n:]
		}
		if (wholeErr == nil) != (piecesErr == nil) || whole != pieces {
			t.Fatalf("whole %v %+v, in pieces %v %+v", wholeErr, whole, piecesErr, pieces)
		}
		if wholeErr == nil && whole.remaining > whole.max && whole.state == 2 {
			t.Fatalf("let %d bytes pass", whole.remaining)
		}
	})
}

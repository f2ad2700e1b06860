package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// Session is one connection, without reconnecting.
type Session struct {
	// SessionPresent says that the broker had kept a session for this client id.
	SessionPresent bool
	// Timing says how long connecting took.
	Timing Timing
	// ConnectedAt is when CONNACK arrived.
	ConnectedAt time.Time

	link       link
	cli        *paho.Client
	state      *ephemeral
	flight     Flight
	early      []*early
	ackTimeout time.Duration
	manual     bool // its receiver acknowledges
}

// Dial connects once, to the first server that answers. ctx bounds the
// connecting, not the session. OnUp, OnDown, OnConnectError and Backoff are not
// used. A refusal is a *RefusedError. The caller ends the session with
// Disconnect or Close.
func Dial(ctx context.Context, cfg Config) (*Session, error) { return DialWith(ctx, cfg, Flight{}) }

// DialWith is Dial with packets that leave together with CONNECT. The session's Landed
// says what became of them; after an error nobody knows.
func DialWith(ctx context.Context, cfg Config, f Flight) (*Session, error) {
	urls, err := cfg.prepare()
	if err != nil {
		return nil, fmt.Errorf("mqtt client: %w", err)
	}
	var failures []error
	for _, u := range urls {
		attempt, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
		w, err := dial(attempt, u, cfg.TLS, int(cfg.MaxPacketSize))
		if err == nil {
			var s *Session
			if s, err = open(attempt, cfg, w, f); err == nil {
				cancel()
				return s, nil
			}
		}
		cancel()
		failures = append(failures, fmt.Errorf("connect to %s: %w", u.Host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(failures...)
}

func open(ctx context.Context, cfg Config, w *wire, f Flight) (*Session, error) {
	early, encoded, err := f.launch()
	if err != nil {
		_ = w.Close() // nothing was sent
		return nil, err
	}
	w.rider = encoded
	state := newEphemeral()
	state.flight = early
	cc := cfg.client()
	cc.Conn, cc.Session = w, state
	cc.PacketTimeout = cfg.AckTimeout
	cc.OnPublishReceived = []func(paho.PublishReceived) (bool, error){deliver(func() *wire { return w }, &cfg)}
	cc.OnServerDisconnect = func(*paho.Disconnect) {} // the wire remembers the code
	cli := paho.NewClient(cc)
	sent := time.Now()
	ack, err := cli.Connect(ctx, cfg.connect(cfg.CleanStart))
	if err != nil {
		_ = w.Close() // paho closed it already unless it failed early
		w.forget()
		return nil, connackError(ack, err)
	}
	s := &Session{SessionPresent: ack.SessionPresent, ConnectedAt: time.Now(), cli: cli, link: link{wire: w, to: cli},
		state: state, flight: f, early: early, ackTimeout: cfg.AckTimeout, manual: cfg.ManualAck}
	w.timing.Connect = s.ConnectedAt.Sub(sent)
	s.Timing = w.timing
	s.link.maxPacket = serverMaxPacket(ack)
	return s, nil
}

// connackError makes a refusal out of a CONNACK with an error code.
func connackError(ack *paho.Connack, err error) error {
	if ack == nil || ack.ReasonCode < 0x80 {
		return err
	}
	refused := &RefusedError{Packet: "CONNACK", Code: ack.ReasonCode}
	if ack.Properties != nil {
		refused.Reason = ack.Properties.ReasonString
	}
	return refused
}

func serverMaxPacket(ack *paho.Connack) uint32 {
	if ack.Properties == nil || ack.Properties.MaximumPacketSize == nil {
		return 0
	}
	return *ack.Properties.MaximumPacketSize
}

// Publish is like Client.Publish.
func (s *Session) Publish(ctx context.Context, p Publication) error { return s.link.publish(ctx, p) }

// Subscribe is like Client.Subscribe.
func (s *Session) Subscribe(ctx context.Context, subs []Subscription) error {
	return s.link.subscribe(ctx, subs)
}

// Unsubscribe is like Client.Unsubscribe.
func (s *Session) Unsubscribe(ctx context.Context, filters []string) error {
	return s.link.unsubscribe(ctx, filters)
}

// Handled returns when everything that was received up to now has been handled and
// acknowledged, or with the reason why it will not be. It is not for ManualAck.
func (s *Session) Handled(ctx context.Context) error {
	select {
	case <-s.state.settle():
		return nil
	case <-s.Done():
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Done is closed when the connection has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.link.wire.lost.Done() }

// Err says why the connection ended; nil while it lives. It wraps
// ErrConnectionLost, and a *RefusedError when the broker said the reason.
func (s *Session) Err() error { return context.Cause(s.link.wire.lost) }

// Disconnect says goodbye and waits until nothing of the session runs any
// more. The broker keeps its session for Config.SessionExpiry. Without ManualAck
// what was received is acknowledged before, or it would come again.
func (s *Session) Disconnect() {
	timeout := time.NewTimer(s.ackTimeout)
	defer timeout.Stop()
	if !s.manual {
		select {
		case <-s.state.settle():
		case <-s.Done():
		case <-timeout.C:
		}
	}
	_ = s.cli.Disconnect(&paho.Disconnect{ReasonCode: 0}) // gone is gone
	<-s.cli.Done()
}

// Close drops the connection without a goodbye, as a lost network would.
func (s *Session) Close() {
	_ = s.link.wire.Close() // closing twice is fine
	<-s.cli.Done()
}

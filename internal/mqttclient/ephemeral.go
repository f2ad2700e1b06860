package mqttclient

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// ephemeral is client-side session state that does not outlive a connection.
// paho's own would send again, at the next connect, what a caller was already
// told had failed; then an old manifest could follow a newer one. Only QoS 0
// and 1 are used, so there is no other state to keep.
type ephemeral struct {
	flight []*early // what was sent with CONNECT

	mu      sync.Mutex // guards what follows
	inner   *state.State
	owed    int           // messages received and not acknowledged yet
	settled chan struct{} // closed when owed is 0; nil: nobody waits
}

func newEphemeral() *ephemeral { return &ephemeral{inner: state.NewInMemory()} }

func (e *ephemeral) current() *state.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inner
}

func (e *ephemeral) ConAckReceived(w io.Writer, connect *packets.Connect, connack *packets.Connack) error {
	e.mu.Lock()
	e.inner = state.NewInMemory()
	inner := e.inner
	e.owed = 0
	e.mu.Unlock()
	if err := inner.ConAckReceived(w, connect, connack); err != nil {
		return err
	}
	return e.enter(connack)
}

// enter makes the session's state know the packets of the flight. Nothing is read or
// sent before, so the state numbers them as they were numbered when they left.
func (e *ephemeral) enter(connack *packets.Connack) error {
	if p := connack.Properties; p != nil && p.ReceiveMaximum != nil && len(e.flight) > int(*p.ReceiveMaximum) {
		return fmt.Errorf("flight: %d packets, the broker takes %d", len(e.flight), *p.ReceiveMaximum)
	}
	for i, sent := range e.flight {
		if err := e.current().AddToSession(context.Background(), sent, sent.answer); err != nil {
			return fmt.Errorf("flight: %w", err)
		}
		if sent.id != uint16(i+1) {
			return fmt.Errorf("flight: packet %d is known as %d", i+1, sent.id)
		}
	}
	return nil
}

func (e *ephemeral) ConnectionLost(d *packets.Disconnect) error {
	return e.current().ConnectionLost(d)
}

func (e *ephemeral) AddToSession(ctx context.Context, p session.Packet, resp chan<- packets.ControlPacket) error {
	return e.current().AddToSession(ctx, p, resp)
}

func (e *ephemeral) PacketReceived(p *packets.ControlPacket, out chan<- *packets.Publish) error {
	if p.Type == packets.PUBLISH {
		e.owe(1)
	}
	return e.current().PacketReceived(p, out)
}

func (e *ephemeral) Ack(p *packets.Publish) error {
	defer e.owe(-1)
	return e.current().Ack(p)
}

func (e *ephemeral) Close() error { return e.current().Close() }

func (e *ephemeral) owe(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.owed += n; e.owed <= 0 && e.settled != nil {
		close(e.settled)
		e.settled = nil
	}
}

// settle returns a channel that is closed once everything that was received has been
// acknowledged.
func (e *ephemeral) settle() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled == nil {
		e.settled = make(chan struct{})
	}
	settled := e.settled
	if e.owed <= 0 {
		close(e.settled)
		e.settled = nil
	}
	return settled
}

func (e *ephemeral) SetErrorLogger(log.Logger) {}
func (e *ephemeral) SetDebugLogger(log.Logger) {}

package mqttclient

import (
	"context"
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
	mu    sync.Mutex // guards inner
	inner *state.State
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
	e.mu.Unlock()
	return inner.ConAckReceived(w, connect, connack)
}

func (e *ephemeral) ConnectionLost(d *packets.Disconnect) error {
	return e.current().ConnectionLost(d)
}

func (e *ephemeral) AddToSession(ctx context.Context, p session.Packet, resp chan<- packets.ControlPacket) error {
	return e.current().AddToSession(ctx, p, resp)
}

func (e *ephemeral) PacketReceived(p *packets.ControlPacket, out chan<- *packets.Publish) error {
	return e.current().PacketReceived(p, out)
}

func (e *ephemeral) Ack(p *packets.Publish) error { return e.current().Ack(p) }
func (e *ephemeral) Close() error                 { return e.current().Close() }

func (e *ephemeral) SetErrorLogger(log.Logger) {}
func (e *ephemeral) SetDebugLogger(log.Logger) {}

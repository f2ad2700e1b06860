package mqttclient

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// peer is a server that does exactly what a test tells it to, also what no
// honest broker would.
type peer struct {
	t        *testing.T
	listener net.Listener
	conns    chan *peerConn // accepted, CONNECT not read yet
	mu       sync.Mutex
	open     []net.Conn
}

type peerConn struct {
	net.Conn
	t *testing.T
}

const patience = 30 * time.Second

func newPeer(t *testing.T) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, listener: l, conns: make(chan *peerConn, 64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.open = append(p.open, c)
			p.mu.Unlock()
			p.conns <- &peerConn{c, t}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.open {
			c.Close()
		}
	})
	return p
}

func (p *peer) url() string { return "mqtt://" + p.listener.Addr().String() }

// accept waits for a connection, reads its CONNECT and answers with code.
func (p *peer) accept(code byte, change ...func(*packets.Connack)) *peerConn {
	p.t.Helper()
	var c *peerConn
	select {
	case c = <-p.conns:
	case <-time.After(patience):
		p.t.Fatal("nobody connected")
	}
	if _, ok := c.read().Content.(*packets.Connect); !ok {
		p.t.Fatal("first packet is not CONNECT")
	}
	ack := &packets.Connack{ReasonCode: code, Properties: &packets.Properties{}}
	for _, f := range change {
		f(ack)
	}
	c.write(ack)
	return c
}

func (c *peerConn) write(p io.WriterTo) {
	c.t.Helper()
	if _, err := p.WriteTo(c.Conn); err != nil {
		c.t.Errorf("peer: %v", err)
	}
}

// read returns the next packet that is not a ping (which it answers).
func (c *peerConn) read() *packets.ControlPacket {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		p, err := packets.ReadPacket(c.Conn)
		if err != nil {
			c.t.Fatalf("peer: %v", err)
		}
		if p.Type != packets.PINGREQ {
			return p
		}
		_, _ = packets.NewControlPacket(packets.PINGRESP).WriteTo(c.Conn)
	}
}

func (c *peerConn) readPublish() *packets.Publish {
	c.t.Helper()
	p, ok := c.read().Content.(*packets.Publish)
	if !ok {
		c.t.Fatal("peer: not a PUBLISH")
	}
	return p
}

// start runs a client for the length of the test.
func start(t *testing.T, cfg Config) (*Client, context.CancelFunc, <-chan error) {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return c, cancel, done
}

func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

func wantRefused(t *testing.T, err error, packet string, code byte) {
	t.Helper()
	var r *RefusedError
	if !errors.As(err, &r) || r.Packet != packet || r.Code != code {
		t.Fatalf("got %v, want a refusal by %s with 0x%02X", err, packet, code)
	}
}

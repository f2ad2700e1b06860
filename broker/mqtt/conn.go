package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	// highWater is how many bytes may wait before messages (as opposed to
	// acknowledgements) wait in the session instead.
	highWater = 64 << 10
	// drainTimeout is how long a closed connection may take to write its last
	// words.
	drainTimeout = 2 * time.Second
	// writeChunk is how much is written at once, so that a slow client that
	// makes progress is told from one that does not.
	writeChunk = 64 << 10
)

// errSlow means that a client did not take what was written to it.
var errSlow = errors.New("client reads too slowly")

// conn is a TLS connection of a client whose certificate is good, with MQTT in it
// as it is or in WebSocket frames; or a TCP connection of the lab. Its writes never
// block.
type conn struct {
	net.Conn
	wire     *wire      // below TLS
	web      *webSocket // nil: MQTT as it is
	identity certs.Identity
	cert     *x509.Certificate // nil in the lab
	remote   string
	number   int64 // numbers the connections, growing with time; final once claimed
	over     bool  // above the limit when it came
	lab      bool  // of the lab listener
	limits   *Limits
	rest     []byte // of a packet that has not come as a whole; only the reader uses it
	acks     acks

	// Set once in OnConnect, before any other goroutine knows the conn.
	v5     bool
	sentID string // client id as sent
	// The client id as it is known here, and the one that the client was given
	// because it sent none.
	clientID string
	assigned string
	// emptyWill: mochi was told of a payload that the will has not.
	emptyWill bool
	client    *client
	params    connectParams
	aliases   aliases
	quiet     chan struct{} // holds a token for each QoS 0 message under way to the store
	// Of the connection's own goroutine: its claim; whether the cluster knows the
	// session; and whether this node does not, because another had it.
	claimed cluster.Claim
	saved   savedSession // what there was of the session before
	found   bool
	moved   bool

	keep atomic.Int64 // keep-alive in seconds; 0: none; -1: before CONNECT

	greets   atomic.Bool  // CONNACK was encoded, and is what is written next
	welcomed atomic.Bool  // CONNACK was queued: nothing may come before it
	refusals atomic.Int32 // audited on this connection
	reason   atomic.Pointer[string]
	onDrain  func()
	done     chan struct{} // closed when the conn is
	wg       *sync.WaitGroup

	mu       sync.Mutex // guards what follows
	buffer   []byte     // waits to be written
	flushing bool       // a goroutine writes
	closed   bool
	starved  bool // somebody waits for the buffer to drain
}

// newConn makes a conn of a connection whose client is known by its certificate, or
// of one of the lab, without.
func newConn(t net.Conn, w *wire, id certs.Identity, cert *x509.Certificate, number int64, limits *Limits, wg *sync.WaitGroup) *conn {
	c := &conn{
		Conn: t, wire: w, identity: id, cert: cert, lab: cert == nil,
		remote: t.RemoteAddr().String(), number: number, limits: limits,
		done: make(chan struct{}), wg: wg,
	}
	c.acks.init(c)
	c.keep.Store(-1)
	return c
}

// Write takes p and returns; a goroutine writes it. A full buffer closes the
// connection.
func (c *conn) Write(p []byte) (int, error) {
	if c.web != nil {
		return c.web.Write(p)
	}
	return c.queue(p)
}

// queue is Write for what goes into the TLS connection as it is.
func (c *conn) queue(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if len(c.buffer)+len(p) > c.limits.WriteBuffer {
		c.abort("slow")
		return 0, errSlow
	}
	c.buffer = append(c.buffer, p...)
	if c.greets.Load() {
		c.welcomed.Store(true)
	}
	c.flush()
	return len(p), nil
}

// flush makes sure that somebody writes. The caller holds mu.
func (c *conn) flush() {
	if c.flushing || len(c.buffer) == 0 {
		return
	}
	c.flushing = true
	c.wg.Go(c.writeOut)
}

// writeOut writes until the buffer is empty, and ends the connection if it was
// closed meanwhile.
func (c *conn) writeOut() {
	var spare []byte
	for {
		c.mu.Lock()
		if len(c.buffer) == 0 {
			c.flushing = false
			closed, starved := c.closed, c.starved
			c.starved = false
			if cap(c.buffer) > 4096 {
				c.buffer = nil // an idle connection keeps little
			}
			c.mu.Unlock()
			if closed {
				_ = c.Conn.Close() // the peer may be gone already
			} else if starved && c.onDrain != nil {
				c.onDrain()
			}
			return
		}
		chunk, timeout := c.buffer, c.limits.WriteTimeout
		c.buffer = spare[:0]
		if c.closed {
			timeout = drainTimeout
		}
		c.mu.Unlock()
		for rest := chunk; len(rest) > 0; {
			n := min(len(rest), writeChunk)
			_ = c.Conn.SetWriteDeadline(time.Now().Add(timeout)) // the write would fail, too
			if _, err := c.Conn.Write(rest[:n]); err != nil {
				c.mu.Lock()
				if isTimeout(err) {
					c.abort("slow")
				} else {
					c.abort("error")
				}
				c.flushing = false
				c.mu.Unlock()
				return
			}
			rest = rest[n:]
		}
		spare = chunk
		if cap(spare) > highWater {
			spare = nil
		}
	}
}

// full reports whether messages should wait, and has onDrain called when they
// need not any more.
func (c *conn) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return true
	}
	if len(c.buffer) < highWater {
		return false
	}
	c.starved = true
	return true
}

// Close stops reading, lets what was written go out for a short time, and ends
// the connection. It does not block.
func (c *conn) Close() error {
	if c.web != nil {
		c.web.close(websocket.CloseNormalClosure)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	close(c.done)
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	if c.flushing {
		// A write that is stuck must not have the long timeout any more.
		_ = c.Conn.SetWriteDeadline(time.Now().Add(drainTimeout))
		return nil
	}
	c.flushing = true
	c.wg.Go(c.writeOut)
	return nil
}

// abort ends the connection at once. The caller holds mu.
func (c *conn) abort(reason string) {
	c.because(reason)
	if !c.closed {
		c.closed = true
		close(c.done)
	}
	c.buffer = nil
	raw := c.Conn
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn() // without TLS's farewell, which could block
	}
	_ = raw.Close() // the peer may be gone already
}

// because notes why the connection ends; the first reason counts.
func (c *conn) because(reason string) { c.reason.CompareAndSwap(nil, &reason) }

// disconnect ends the connection, with a DISCONNECT packet if the client
// understands one.
func (c *conn) disconnect(code packets.Code, reason string) {
	c.because(reason)
	if c.v5 && c.welcomed.Load() {
		pk := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect},
			ReasonCode:  code.Code,
		}
		if code.Code >= packets.ErrUnspecifiedError.Code {
			pk.Properties.ReasonString = code.Reason
		}
		_ = c.send(pk) // the connection ends in any case
	}
	_ = c.Close() // never fails
}

// setReadDeadline does nothing once the connection is closed: the reader must
// stay awake.
func (c *conn) setReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) isClosed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

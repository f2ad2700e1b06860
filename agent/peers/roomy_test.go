package peers

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// roomy is an end of a connection that takes all that is written to it at once. Who closes one
// under TLS writes to it, and must not wait for the other side, which may be about to do the same:
// in a bubble of testing/synctest whoever waits for one of them on a mutex would have time stand
// still, and net.Pipe has no room. What was written comes before the end does. Deadlines are of
// reads only.
type roomy struct {
	net.Conn // an end of a net.Pipe
	other    *roomy
	more     chan struct{}
	unread   atomic.Bool // the other side is closed

	mu     sync.Mutex // guards what follows
	queue  []byte
	closed bool
}

// newRoomy are both ends of a connection.
func newRoomy() (ours, theirs net.Conn) {
	a, b := net.Pipe()
	one := &roomy{Conn: a, more: make(chan struct{}, 1)}
	two := &roomy{Conn: b, more: make(chan struct{}, 1), other: one}
	one.other = two
	go one.pump()
	go two.pump()
	return one, two
}

// pump has the other side read what there is, until this one is closed.
func (r *roomy) pump() {
	for range r.more {
		r.mu.Lock()
		b, closed := r.queue, r.closed
		r.queue = nil
		r.mu.Unlock()
		if len(b) > 0 {
			_, _ = r.Conn.Write(b) // who has closed does not read it
		}
		if closed {
			_ = r.Conn.Close()
			return
		}
	}
}

func (r *roomy) tell() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// Write implements net.Conn.
func (r *roomy) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return 0, net.ErrClosed
	case r.unread.Load():
		return 0, syscall.EPIPE
	}
	r.queue = append(r.queue, b...)
	r.tell()
	return len(b), nil
}

// Close implements net.Conn.
func (r *roomy) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		_ = r.Conn.SetReadDeadline(time.Now())
		r.other.unread.Store(true)
		_ = r.other.Conn.SetWriteDeadline(time.Now())
		r.tell()
	}
	return nil
}

// SetReadDeadline implements net.Conn.
func (r *roomy) SetReadDeadline(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	return r.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (r *roomy) SetDeadline(t time.Time) error { return r.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (r *roomy) SetWriteDeadline(time.Time) error { return nil }

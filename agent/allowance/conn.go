package allowance

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// DialContext connects by d. What comes over the connection comes at the rate that is
// allowed, and all of it counts, as what is sent does.
func (a *Allowance) DialContext(d net.Dialer) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if a == nil || a.limiter == nil && a.cfg.share() == 0 {
		return d.DialContext
	}
	if a.limiter != nil {
		d.Control = func(_, _ string, raw syscall.RawConn) error { return a.narrow(raw) }
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return a.Count(c), nil
	}
}

// Count is a connection as those of DialContext, made by others.
func (a *Allowance) Count(c net.Conn) net.Conn {
	return &conn{Conn: c, allowance: a, closed: make(chan struct{})}
}

// narrow has the kernel take little ahead of who reads. Otherwise megabytes would come at
// once, and then nothing for so long that the other side hangs up.
func (a *Allowance) narrow(raw syscall.RawConn) error {
	size := int(min(max(a.cfg.Rate/2, 8<<10), 1<<20))
	var err error
	if errRaw := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size)
	}); errRaw != nil {
		return errRaw
	}
	return err
}

// burst is how many bytes may come at once.
func (a *Allowance) burst() int {
	if a.cfg.Burst > 0 {
		return int(a.cfg.Burst)
	}
	return int(max(a.cfg.Rate, minBurst))
}

// conn is a connection whose bytes count.
type conn struct {
	net.Conn
	allowance *Allowance
	once      sync.Once
	closed    chan struct{}
}

func (c *conn) Read(p []byte) (int, error) {
	if c.allowance.limiter != nil {
		p = p[:min(len(p), c.allowance.burst())]
	}
	n, err := c.Conn.Read(p)
	c.allowance.spent(n)
	c.allowance.pace(n, c.closed)
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.allowance.spent(n)
	return n, err
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// pace waits until n bytes more may come, or nobody wants them any more.
func (a *Allowance) pace(n int, closed <-chan struct{}) {
	if a.limiter == nil || n <= 0 {
		return
	}
	wait := a.limiter.ReserveN(time.Now(), n).Delay()
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closed:
	}
}

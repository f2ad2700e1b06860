package fetch

import (
	"context"
	"net"
	"net/http"
)

// pipes is a listener without a network, for synctest.
type pipes struct{ conns chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { close(p.conns); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// overPipes has a client's connections go to a handler without a network; count may wrap
// them.
func overPipes(c *Client, handler http.HandlerFunc, count func(net.Conn) net.Conn) (stop func()) {
	listener := pipes{make(chan net.Conn)}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	c.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case listener.conns <- theirs:
			return count(ours), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return func() {
		c.Close()
		_ = server.Close()
	}
}

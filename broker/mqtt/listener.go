package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"groundswell/certs"
)

// listener accepts TCP connections, makes TLS connections of them, and hands
// on those whose certificate is good. Accept errors (out of files, for one) do
// not end it.
type listener struct {
	tcp     net.Listener
	web     bool // MQTT over WebSocket
	lab     bool // without TLS
	tls     *tls.Config
	gate    *gate
	proxies []netip.Prefix // whose connections begin with a PROXY header
	limits  *Limits
	metrics *metrics
	log     *slog.Logger
	wg      *sync.WaitGroup
	serve   func(c *conn, leave func()) // calls leave when the connection has ended
}

// run accepts until ctx ends.
func (l *listener) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = l.tcp.Close() }) // wakes Accept
	defer stop()
	backoff := time.Duration(0)
	for {
		raw, err := l.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			l.metrics.accepts.Inc()
			backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
			l.log.Error("cannot accept connections, trying again", "err", err, "in", backoff.String())
			select {
			case <-ctx.Done():
				return
			case <-time.After(backoff):
			}
			continue
		}
		backoff = 0
		over, ok := l.gate.enter()
		if !ok {
			l.metrics.handshakes.With("limit").Inc()
			_ = raw.Close() // nothing was said yet
			continue
		}
		l.wg.Go(func() { l.admit(ctx, raw.(*net.TCPConn), over) })
	}
}

// admit takes a connection to where its CONNECT is awaited, and serves it.
func (l *listener) admit(ctx context.Context, raw *net.TCPConn, over bool) {
	c, remote, err := l.welcome(ctx, raw)
	if err != nil {
		l.failed(remote.String(), err)
		_ = raw.Close() // nothing more to say
		l.gate.leave()
		return
	}
	c.over = over
	if l.web {
		if err := c.upgrade(); err != nil {
			l.failed(c.remote, err, "identity", c.identity.String())
			_ = c.Close() // never fails
			l.gate.leave()
			return
		}
	}
	l.serve(c, l.gate.leave)
}

// await waits for a connection's turn, but no longer than its client would have
// for its handshake: who is told late tries again anyway.
func (l *listener) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.limits.ConnectTimeout)
	defer cancel()
	if err := l.gate.pace.Wait(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // we are stopping
		}
		return fmt.Errorf("%w: %w", errPace, err)
	}
	return nil
}

// welcome returns the connection of a client that may send its CONNECT. remote is as
// in handshake.
func (l *listener) welcome(ctx context.Context, raw *net.TCPConn) (c *conn, remote net.Addr, err error) {
	if err := l.await(ctx); err != nil {
		return nil, raw.RemoteAddr(), err
	}
	w, err := newWire(raw)
	if err != nil {
		return nil, raw.RemoteAddr(), err
	}
	if !l.lab {
		c, remote, err = l.handshake(ctx, w)
	} else {
		c, remote = newConn(w, w, labIdentity, nil, l.gate.nextNumber(), l.limits, l.wg), raw.RemoteAddr()
	}
	if err != nil {
		return nil, remote, err
	}
	// From here to CONNECT, the request for a WebSocket included; afterwards the
	// keep-alive counts.
	return c, remote, c.setReadDeadline(time.Now().Add(l.limits.ConnectTimeout))
}

// handshake returns the connection of a client with a good certificate. remote is
// the client's address as far as it is known, also when there is an error.
func (l *listener) handshake(ctx context.Context, w *wire) (c *conn, remote net.Addr, err error) {
	raw, remote := net.Conn(w), w.RemoteAddr()
	ctx, cancel := context.WithTimeout(ctx, l.limits.ConnectTimeout)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	if l.fromProxy(raw) {
		if raw, err = readProxy(ctx, raw); err != nil {
			return nil, remote, err
		}
		remote = raw.RemoteAddr()
	}
	t := tls.Server(raw, l.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		if unwanted(err) {
			err = fmt.Errorf("%w: a header from where none is expected: %w", errProxy, err)
		}
		return nil, remote, err
	}
	id, err := certs.PeerIdentity(t.ConnectionState())
	if err != nil {
		return nil, remote, err
	}
	return newConn(t, w, id, t.ConnectionState().PeerCertificates[0], l.gate.nextNumber(), l.limits, l.wg), remote, nil
}

// failed counts a connection that did not come to CONNECT, and audits those that
// were refused.
func (l *listener) failed(remote string, err error, attrs ...any) {
	reason := handshakeReason(err)
	l.metrics.handshakes.With(reason).Inc()
	attrs = append(attrs, "remote", remote, "reason", reason, "err", err)
	switch reason {
	case "revoked", "trust-domain", "identity", "chain", "origin", "proxy":
		l.log.Warn("connection refused", append(attrs, "audit", true)...)
	default:
		l.log.Debug("handshake failed", attrs...)
	}
}

func handshakeReason(err error) string {
	var verification *tls.CertificateVerificationError
	switch {
	case errors.Is(err, certs.ErrRevoked):
		return "revoked"
	case errors.Is(err, certs.ErrTrustDomain):
		return "trust-domain"
	case errors.Is(err, certs.ErrIdentity):
		return "identity"
	case errors.Is(err, certs.ErrChain), errors.As(err, &verification):
		return "chain"
	case errors.Is(err, errPace):
		return "pace"
	case errors.Is(err, errOrigin):
		return "origin"
	case errors.Is(err, errUpgrade):
		return "upgrade"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "shutdown"
	case errors.Is(err, errProxy):
		return "proxy"
	case errors.Is(err, io.EOF):
		return "closed"
	}
	return "tls"
}

package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/certs"

	"golang.org/x/time/rate"
)

// listener accepts TCP connections, makes TLS connections of them, and hands
// on those whose certificate is good. Accept errors (out of files, for one) do
// not end it.
type listener struct {
	tcp     net.Listener
	tls     *tls.Config
	limits  *Limits
	metrics *metrics
	log     *slog.Logger
	wg      *sync.WaitGroup
	serve   func(*conn) // blocks while the connection lives

	open atomic.Int64 // connections, handshakes included
	last atomic.Int64 // the newest connection number
}

// run accepts until ctx ends.
func (l *listener) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = l.tcp.Close() }) // wakes Accept
	defer stop()
	pace := rate.NewLimiter(rate.Limit(l.limits.HandshakesPerSecond), max(1, l.limits.HandshakesPerSecond/10))
	backoff := time.Duration(0)
	for {
		raw, err := l.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
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
		if l.open.Load() >= int64(l.limits.MaxConnections) {
			l.metrics.handshakes.With("limit").Inc()
			_ = raw.Close() // nothing was said yet
			continue
		}
		if err := pace.Wait(ctx); err != nil {
			_ = raw.Close() // we are stopping
			return
		}
		l.open.Add(1)
		l.wg.Go(func() {
			defer l.open.Add(-1)
			c, err := l.handshake(ctx, raw)
			if err != nil {
				l.failed(raw, err)
				return
			}
			l.serve(c)
		})
	}
}

// handshake returns the connection of a client with a good certificate.
func (l *listener) handshake(ctx context.Context, raw net.Conn) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.limits.ConnectTimeout)
	defer cancel()
	t := tls.Server(raw, l.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, err
	}
	id, err := certs.PeerIdentity(t.ConnectionState())
	if err != nil {
		return nil, err
	}
	c := newConn(t, id, l.nextNumber(), l.limits, l.wg)
	// From here to CONNECT; afterwards the keep-alive counts.
	if err := t.SetReadDeadline(time.Now().Add(l.limits.ConnectTimeout)); err != nil {
		return nil, err
	}
	return c, nil
}

// nextNumber numbers a connection: nanoseconds since 1970, and more than any
// before, so that numbers also grow over a restart.
func (l *listener) nextNumber() int64 {
	for {
		last := l.last.Load()
		next := max(time.Now().UnixNano(), last+1)
		if l.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// failed counts a handshake that failed, and audits those that were refused.
func (l *listener) failed(raw net.Conn, err error) {
	reason := handshakeReason(err)
	l.metrics.handshakes.With(reason).Inc()
	switch reason {
	case "revoked", "trust-domain", "identity", "chain":
		l.log.Warn("connection refused", "audit", true, "remote", raw.RemoteAddr().String(), "reason", reason, "err", err)
	default:
		l.log.Debug("handshake failed", "remote", raw.RemoteAddr().String(), "reason", reason, "err", err)
	}
	_ = raw.Close() // nothing more to say
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
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "shutdown"
	case errors.Is(err, io.EOF):
		return "closed"
	}
	return "tls"
}

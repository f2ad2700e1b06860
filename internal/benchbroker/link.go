package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// patience bounds the wait for any single answer.
const patience = 2 * time.Minute

// link is one MQTT connection. It has no goroutine of its own, so that tens of
// thousands of them cost little here.
type link struct {
	protocol
	conn   *tls.Conn
	in     *bufio.Reader
	body   []byte // of the packet that was read last
	window int    // the server's Receive Maximum
}

// dial makes the TLS connection, always by a full handshake, and the session.
func dial(ctx context.Context, p *running, local net.IP, c client) (*link, error) {
	dialer := net.Dialer{Timeout: patience}
	if local != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: local}
	}
	raw, err := dialer.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, err
	}
	l := &link{protocol: p.protocol, conn: tls.Client(raw, c.tls)}
	if err := l.begin(ctx, c.id); err != nil {
		_ = raw.Close() // it never became a session
		return nil, fmt.Errorf("connect %s: %w", c.id, err)
	}
	return l, nil
}

func (l *link) begin(ctx context.Context, client string) error {
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := l.conn.HandshakeContext(ctx); err != nil {
		return err
	}
	l.in = bufio.NewReaderSize(l.conn, 512)
	if _, err := l.conn.Write(l.protocol.connect(client)); err != nil {
		return err
	}
	body, err := l.await(typeConnack)
	if err != nil {
		return err
	}
	if l.window, err = l.receiveMaximum(body); err != nil {
		return err
	}
	return l.conn.SetDeadline(time.Time{})
}

// subscribe asks for a filter and waits for the answer. What comes in between
// is given to onPublish, which may be nil when nothing can come.
func (l *link) subscribe(filter string, onPublish func(received) error) error {
	if err := l.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := l.conn.Write(l.protocol.subscribe(1, filter)); err != nil {
		return err
	}
	for {
		first, body, err := l.read()
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", filter, err)
		}
		switch kind := first >> 4; {
		case kind == typeSuback:
			if err := acknowledged(kind, body); err != nil {
				return fmt.Errorf("subscribe %s: %w", filter, err)
			}
			return l.conn.SetReadDeadline(time.Time{})
		case kind == typePublish && onPublish != nil:
			m, err := parsePublish(first, body)
			if err != nil {
				return err
			}
			if err := onPublish(m); err != nil {
				return err
			}
		default:
			return fmt.Errorf("subscribe %s: %w: type %d", filter, errMalformed, kind)
		}
	}
}

// await reads a packet that must be of that type.
func (l *link) await(kind byte) ([]byte, error) {
	first, body, err := l.read()
	if err != nil {
		return nil, err
	}
	if first>>4 != kind {
		return nil, fmt.Errorf("%w: type %d instead of %d", errMalformed, first>>4, kind)
	}
	return body, nil
}

// read returns the next packet; body is valid until the next call.
func (l *link) read() (first byte, body []byte, err error) {
	if first, err = l.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	size, err := binary.ReadUvarint(l.in)
	if err != nil {
		return 0, nil, err
	}
	if size > 1<<20 {
		return 0, nil, fmt.Errorf("%w: %d bytes", errMalformed, size)
	}
	if cap(l.body) < int(size) {
		l.body = make([]byte, size)
	}
	l.body = l.body[:size]
	_, err = io.ReadFull(l.in, l.body)
	return first, l.body, err
}

// consume hands every PUBLISH to on, and acknowledges it, until on returns false
// or nothing has come for so long as idle says.
func (l *link) consume(idle time.Duration, on func(received) (more bool)) error {
	var acks []byte
	for more := true; more; {
		if err := l.conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		first, body, err := l.read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if first>>4 != typePublish {
			continue
		}
		m, err := parsePublish(first, body)
		if err != nil {
			return err
		}
		if m.id > 0 {
			acks = append(acks, pubackPacket(m.id)...)
		}
		more = on(m)
		if !more || l.in.Buffered() == 0 || len(acks) > 4096 { // else with the next
			if _, err := l.conn.Write(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
	}
	return nil
}

// publish sends what next appends to b, as many at once as window says, until
// next returns false, and returns how many were acknowledged.
func (l *link) publish(window int, next func(b []byte, id uint16) ([]byte, bool)) (acked int, err error) {
	window = min(window, l.window)
	var out []byte
	sent, more := 0, true
	for {
		out = out[:0]
		for more && sent-acked < window {
			if out, more = next(out, uint16(sent%65535)+1); more {
				sent++
			}
		}
		if sent == acked {
			return acked, nil
		}
		if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return acked, err
		}
		if len(out) > 0 {
			if _, err := l.conn.Write(out); err != nil {
				return acked, err
			}
		}
		for first := true; sent > acked && (first || l.in.Buffered() > 0); first = false {
			body, err := l.await(typePuback)
			if err != nil {
				return acked, err
			}
			if err := acknowledged(typePuback, body); err != nil {
				return acked, err
			}
			acked++
		}
	}
}

// roomy gives the connection a large buffer, while nothing is under way.
func (l *link) roomy() { l.in = bufio.NewReaderSize(l.conn, 64<<10) }

// bye ends the session in an orderly way.
func (l *link) bye() {
	_, _ = l.conn.Write(disconnectPacket()) // the server may be gone
	l.drop()
}

// drop ends the connection without a word.
func (l *link) drop() { _ = l.conn.NetConn().Close() }

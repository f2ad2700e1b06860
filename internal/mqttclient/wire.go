package mqttclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// writeTimeout bounds the writing of one packet; a peer that does not read for
// so long is gone.
const writeTimeout = 30 * time.Second

// wire is one network connection to the broker. It knows when it was lost
// (paho tells its waiting callers late or not at all), and it reads the packet
// framing as it passes, to refuse oversized packets before they are buffered
// and to remember why the server disconnected.
//
// paho locks the connection around each packet that it writes as many small
// pieces; Unlock sends the packet as one.
type wire struct {
	net.Conn
	mu  sync.Mutex // held by paho while it writes one packet; guards out
	in  *bufio.Reader
	out *bufio.Writer

	lost context.Context // ends when the connection does; its cause says why
	lose context.CancelCauseFunc

	framing framing // only the reading goroutine touches it
	timing  Timing
	rider   []byte // leaves with the first packet; guarded by mu
	forget  func() // forgets the TLS session that this one was resumed from
}

// Timing is how long the steps of a connection took.
type Timing struct {
	Started time.Time     // when the first step began
	Dial    time.Duration // TCP connection
	TLS     time.Duration // handshake; 0 for plain connections
	Resumed bool          // an earlier TLS session
	Connect time.Duration // CONNECT sent to CONNACK received
}

// dial opens a connection to one server URL.
func dial(ctx context.Context, server *url.URL, tlsConfig *tls.Config, maxPacket int) (*wire, error) {
	timing := Timing{Started: time.Now()}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return nil, err
	}
	timing.Dial = time.Since(timing.Started)
	forget := func() {}
	if server.Scheme == "mqtts" {
		cfg := tlsConfig.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = server.Hostname()
		}
		secured := tls.Client(conn, cfg)
		if cache := cfg.ClientSessionCache; cache != nil {
			// A broker tells that it does not want the client any more only after the
			// handshake. It may want it with another certificate, which a resumed
			// session never shows.
			forget = func() { cache.Put(cfg.ServerName, nil) }
		}
		if err := secured.HandshakeContext(ctx); err != nil {
			forget()
			conn.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		timing.TLS = time.Since(timing.Started) - timing.Dial
		timing.Resumed = secured.ConnectionState().DidResume
		conn = secured
	}
	w := &wire{
		Conn: conn, in: bufio.NewReaderSize(conn, 2048), out: bufio.NewWriterSize(conn, 2048),
		framing: framing{max: maxPacket}, timing: timing, forget: forget,
	}
	w.lost, w.lose = context.WithCancelCause(context.Background())
	return w, nil
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if tooLarge := w.framing.advance(p[:n]); tooLarge != nil {
		n, err = 0, tooLarge
	}
	if w.framing.disconnected {
		// The connection is over as soon as the server says so; paho closes it next.
		w.lose(fmt.Errorf("%w: %w", ErrConnectionLost, &RefusedError{Packet: "DISCONNECT", Code: w.framing.code}))
	}
	if err != nil {
		w.lose(fmt.Errorf("%w: %w", ErrConnectionLost, err))
		w.Conn.Close()
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) { return w.out.Write(p) }

func (w *wire) Lock() { w.mu.Lock() }

func (w *wire) Unlock() {
	defer w.mu.Unlock()
	if w.out.Buffered() == 0 {
		return
	}
	if w.rider != nil {
		_, _ = w.out.Write(w.rider) // Flush tells
		w.rider = nil
	}
	_ = w.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only when closed; Flush then fails too
	if err := w.out.Flush(); err != nil {
		w.lose(fmt.Errorf("%w: %w", ErrConnectionLost, err))
		w.Conn.Close() // ends paho's read loop
	}
}

// Close ends the connection. What the server said last stays the reason.
func (w *wire) Close() error {
	w.lose(fmt.Errorf("%w: %w", ErrConnectionLost, net.ErrClosed))
	return w.Conn.Close()
}

// framing follows the packet boundaries of an MQTT byte stream.
type framing struct {
	max       int // largest packet allowed, in bytes after the fixed header
	state     int // 0: at a packet type, 1: in the length, 2: in the body
	kind      byte
	remaining int
	shift     uint
	first     bool

	disconnected bool // the server sent DISCONNECT with code
	code         byte
}

func (f *framing) advance(p []byte) error {
	for len(p) > 0 {
		switch f.state {
		case 0:
			f.kind, f.remaining, f.shift, f.state = p[0]>>4, 0, 0, 1
			p = p[1:]
		case 1:
			f.remaining |= int(p[0]&0x7f) << f.shift
			f.shift += 7
			last := p[0]&0x80 == 0
			p = p[1:]
			if !last && f.shift >= 28 {
				return fmt.Errorf("malformed packet length")
			}
			if !last {
				continue
			}
			if f.remaining > f.max {
				return fmt.Errorf("%w: %d bytes, at most %d", ErrPacketTooLarge, f.remaining, f.max)
			}
			f.first = true
			f.state = 2
			f.end()
		case 2:
			if f.kind == 14 && f.first {
				f.code = p[0]
			}
			f.first = false
			n := min(len(p), f.remaining)
			f.remaining -= n
			p = p[n:]
			f.end()
		}
	}
	return nil
}

// end closes the packet when nothing of it remains.
func (f *framing) end() {
	if f.remaining > 0 {
		return
	}
	f.state = 0
	if f.kind == 14 {
		f.disconnected = true
	}
}

// parseServers checks server URLs: "mqtt://host:port" or "mqtts://host:port".
func parseServers(servers []string, haveTLS bool) ([]*url.URL, error) {
	if len(servers) == 0 {
		return nil, fmt.Errorf("servers: none given")
	}
	var urls []*url.URL
	for i, s := range servers {
		u, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("servers[%d]: %w", i, err)
		}
		u.Scheme = strings.ToLower(u.Scheme)
		switch {
		case u.Scheme != "mqtt" && u.Scheme != "mqtts":
			return nil, fmt.Errorf("servers[%d]: %q must begin with mqtts:// or mqtt://", i, s)
		case u.Hostname() == "" || u.Port() == "":
			return nil, fmt.Errorf("servers[%d]: %q must be scheme://host:port", i, s)
		case u.Scheme == "mqtts" && !haveTLS:
			return nil, fmt.Errorf("servers[%d]: %q needs a TLS configuration", i, s)
		}
		urls = append(urls, u)
	}
	return urls, nil
}

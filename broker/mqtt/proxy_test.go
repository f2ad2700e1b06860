package mqtt

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs"

	"github.com/gorilla/websocket"
	"github.com/pires/go-proxyproto"
)

func withProxies(networks ...string) option {
	return func(n *node) { n.cfg.ProxyProtocol.Trusted = networks }
}

// logged keeps what is logged, a JSON object a line.
type logged struct {
	mu sync.Mutex // guards what follows
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func withLog(l *logged) option {
	return func(n *node) { n.log = slog.New(slog.NewJSONHandler(l, nil)) }
}

// remotes are the addresses in the audited lines of that reason.
func (l *logged) remotes(reason string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		var attrs struct {
			Audit          bool
			Reason, Remote string
		}
		if json.Unmarshal([]byte(line), &attrs) == nil && attrs.Audit && attrs.Reason == reason {
			found = append(found, attrs.Remote)
		}
	}
	return found
}

// prefixed sends a header in one piece with the first bytes that are written.
type prefixed struct {
	net.Conn
	header []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	header := p.header
	p.header = nil
	n, err := p.Conn.Write(append(header, b...))
	return max(0, n-len(header)), err
}

// balancer connects as a load balancer does.
func (n *node) balancer(address string, header []byte) net.Conn {
	n.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &prefixed{conn, header}
}

// through is rawDial through a load balancer.
func (n *node) through(header []byte, id string) (*raw, error) {
	n.t.Helper()
	conn := tls.Client(n.balancer(n.edge.Addr(), header), n.config(deviceCredential(n.t, id), "").TLS)
	return &raw{t: n.t, conn: conn, in: bufio.NewReader(conn), version: 5}, conn.Handshake()
}

func proxyHeader(t *testing.T, version byte, source string) []byte {
	t.Helper()
	from, err := net.ResolveTCPAddr("tcp", source)
	if err != nil {
		t.Fatal(err)
	}
	to := &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 8883}
	header, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
	if err != nil {
		t.Fatal(err)
	}
	return header
}

// local is what a load balancer sends that connects for itself.
func local() []byte { return append(slices.Clone(proxyproto.SIGV2), 0x20, 0, 0, 0) }

// TestProxiedClientsAreKnownByTheirAddress in the audit, before and after the
// handshake, over both listeners; nobody else is.
func TestProxiedClientsAreKnownByTheirAddress(t *testing.T) {
	var l logged
	n := startNode(t, withWebsocket, withLog(&l), withProxies("192.0.2.0/24", "127.0.0.0/8"))
	for _, source := range []string{"203.0.113.7:1234", "[2001:db8::7]:1234"} {
		r, err := n.through(proxyHeader(t, 2, source), "cam-1")
		if err != nil {
			t.Fatal(err)
		}
		r.connect("cam-2", nil)
		if got := l.remotes("client-id"); !slices.Contains(got, source) {
			t.Errorf("audited %q, want %s", got, source)
		}
	}
	dialer := websocket.Dialer{
		Subprotocols: []string{"mqtt"}, TLSClientConfig: n.config(deviceCredential(t, "cam-1"), "").TLS,
		NetDial: func(string, string) (net.Conn, error) {
			return n.balancer(n.edge.WebsocketAddr(), proxyHeader(t, 2, "203.0.113.8:1234")), nil
		},
	}
	ws, _, err := dialer.Dial("wss://"+n.edge.WebsocketAddr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	web := &webConn{Conn: ws.NetConn(), ws: ws}
	(&raw{t: t, conn: web, in: bufio.NewReader(web), version: 5}).connect("cam-2", nil)
	if got := l.remotes("client-id"); !slices.Contains(got, "203.0.113.8:1234") {
		t.Errorf("over WebSocket: audited %q", got)
	}
	stolen := deviceCredential(t, "cam-9")
	n.revoke(2, certs.Revocation{Serial: stolen.Certificate.SerialNumber, At: time.Now()})
	eventually(t, "a revoked certificate audited", func() bool {
		conn := n.balancer(n.edge.Addr(), proxyHeader(t, 2, "203.0.113.9:1234"))
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = tls.Client(conn, n.config(stolen, "").TLS).Read(make([]byte, 1)) // fails in any case
		return slices.Contains(l.remotes("revoked"), "203.0.113.9:1234")
	})
}

// TestLoadBalancerConnectsForItself: with a header that says so it is served, and
// without a word it may leave.
func TestLoadBalancerConnectsForItself(t *testing.T) {
	n := startNode(t, withProxies("127.0.0.1/32"))
	r, err := n.through(local(), "cam-1")
	if err != nil {
		t.Fatal(err)
	}
	r.connect("cam-1", nil)
	for _, c := range n.edge.live(nil) {
		if !strings.HasPrefix(c.remote, "127.0.0.1:") {
			t.Errorf("remote %s", c.remote)
		}
	}
	_ = n.balancer(n.edge.Addr(), nil).Close()
	eventually(t, "its leaving", func() bool { return n.metric(`broker_handshakes_failed_total{reason="closed"}`) == 1 })
	if got := n.metric(`broker_handshakes_failed_total{reason="proxy"}`); got != 0 {
		t.Errorf("%v refused", got)
	}
}

// TestHeaderInPieces: the network may cut it anywhere.
func TestHeaderInPieces(t *testing.T) {
	n := startNode(t, withProxies("127.0.0.1/32"))
	conn := n.balancer(n.edge.Addr(), nil)
	for _, b := range proxyHeader(t, 2, "203.0.113.7:1234") {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	secure := tls.Client(conn, n.config(deviceCredential(t, "cam-1"), "").TLS)
	r := &raw{t: t, conn: secure, in: bufio.NewReader(secure), version: 5}
	r.connect("cam-1", nil)
	for _, c := range n.edge.live(nil) {
		if c.remote != "203.0.113.7:1234" {
			t.Errorf("remote %s", c.remote)
		}
	}
}

// TestBadHeadersAreRefused: a trusted load balancer that sends none, or a bad
// one, would hide who connects.
func TestBadHeadersAreRefused(t *testing.T) {
	n := startNode(t, withProxies("127.0.0.1/32"))
	good := proxyHeader(t, 2, "203.0.113.7:1234")
	mutated := func(i int, b ...byte) []byte { return slices.Concat(good[:i], b, good[i+len(b):]) }
	cases := map[string][]byte{
		"none":                {},
		"version 1":           proxyHeader(t, 1, "203.0.113.7:1234"),
		"no signature":        mutated(11, 0x0b),
		"version 3":           mutated(12, 0x31),
		"unknown command":     mutated(12, 0x22),
		"no addresses":        mutated(13, 0x00),
		"unknown family":      mutated(13, 0x41),
		"UDP":                 mutated(13, 0x12),
		"a path":              slices.Concat(mutated(13, 0x31, 0, 216)[:16], make([]byte, 216)),
		"too short":           mutated(14, 0, 11),
		"too long":            slices.Concat(mutated(14, 0xff, 0xff), make([]byte, 1<<16)),
		"a header by another": append(slices.Clone(good), good...),
	}
	for name, header := range cases {
		if _, err := n.through(header, "cam-1"); err == nil || isTimeout(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	eventually(t, "all counted", func() bool {
		return n.metric(`broker_handshakes_failed_total{reason="proxy"}`) == float64(len(cases))
	})
}

// TestHeaderHasADeadline: the header must come in the time of the handshake.
func TestHeaderHasADeadline(t *testing.T) {
	n := startNode(t, withProxies("127.0.0.1/32"), withLimits(func(l *Limits) { l.ConnectTimeout = 100 * time.Millisecond }))
	header := proxyHeader(t, 2, "203.0.113.7:1234")
	for _, part := range []int{0, 5, 13, len(header) - 1} {
		conn := n.balancer(n.edge.Addr(), nil)
		if _, err := conn.Write(header[:part]); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%d bytes: %v", part, err)
		}
	}
	eventually(t, "all counted", func() bool { return n.metric(`broker_handshakes_failed_total{reason="timeout"}`) == 4 })
}

// TestHeadersFromElsewhereAreRefused: anybody could claim any address.
func TestHeadersFromElsewhereAreRefused(t *testing.T) {
	for name, options := range map[string][]option{"another network": {withProxies("192.0.2.0/24", "::1/128")}, "off": nil} {
		n := startNode(t, options...)
		for _, version := range []byte{1, 2} {
			if _, err := n.through(proxyHeader(t, version, "203.0.113.7:1234"), "cam-1"); err == nil || isTimeout(err) {
				t.Errorf("%s, version %d: %v", name, version, err)
			}
		}
		eventually(t, "both counted", func() bool { return n.metric(`broker_handshakes_failed_total{reason="proxy"}`) == 2 })
		if r, err := n.through(nil, "cam-1"); err != nil {
			t.Errorf("%s, without a header: %v", name, err)
		} else if ack := r.connect("cam-1", nil); ack.ReasonCode != 0 {
			t.Errorf("%s: CONNACK 0x%02x", name, ack.ReasonCode)
		}
	}
}

func TestTrustedNetworksAreChecked(t *testing.T) {
	cfg := Config{Node: "node-1", TrustDomain: domain, Listen: ":0", Limits: DefaultLimits()}
	for _, bad := range []string{"10.0.0.1", "10.0.0.1/8", "", "lb.example.org"} {
		cfg.ProxyProtocol.Trusted = []string{"192.0.2.0/24", bad}
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), "proxy_protocol.trusted[1]: ") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

package peers

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/peers/mdns"
	"groundswell/certs"
	"groundswell/internal/block"
)

// lan is a network whose time is that of the test (testing/synctest): who serves on it
// stands in a list, and connections are roomy.
type lan struct {
	t  *testing.T
	ca *certs.CA

	mu    sync.Mutex // guards what follows
	at    map[string]*pipes
	calls map[string]int // connections, by address
}

func inLAN(t *testing.T, test func(t *testing.T, l *lan)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ca, err := certs.NewCA(here, time.Now(), 24*365*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		test(t, &lan{t: t, ca: ca, at: map[string]*pipes{}, calls: map[string]int{}})
	})
}

// otherCA is that of another fleet.
func otherCA(t *testing.T) *certs.CA {
	t.Helper()
	ca, err := certs.NewCA("other.example.org", time.Now(), 24*365*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// pipes is a listener.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error { p.close(); return nil }
func (p *pipes) Addr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.18.0.1:8447"))
}

// listen has connections to an address accepted.
func (l *lan) listen(addr string) *pipes {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[addr] = p
	l.t.Cleanup(p.close)
	return p
}

func (l *lan) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l.mu.Lock()
	p := l.at[addr]
	l.calls[addr]++
	l.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("connect %s: refused", addr)
	}
	ours, theirs := newRoomy()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
	case <-ctx.Done():
	}
	_ = theirs.Close()
	_ = ours.Close()
	return nil, cmp.Or(ctx.Err(), net.ErrClosed)
}

func (l *lan) called(addr string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls[addr]
}

func (l *lan) options(device string, c Config) Options {
	credential, err := l.ca.IssueDevice(device, "cam-x", "rev-b", 24*time.Hour)
	if err != nil {
		l.t.Fatal(err)
	}
	config, err := certs.DeviceTLS(certs.TLSOptions{Credential: credential, Authority: l.ca.Authority()})
	if err != nil {
		l.t.Fatal(err)
	}
	return Options{Config: c, Device: device, TrustDomain: here, TLS: config}
}

// serve has a handler answer behind a device's certificate.
func (l *lan) serve(addr, device string, h http.HandlerFunc) {
	server := &http.Server{Handler: h, TLSConfig: l.options(device, Default()).TLS, ErrorLog: log.New(io.Discard, "", 0)}
	listener, ended := l.listen(addr), make(chan struct{})
	go func() { defer close(ended); _ = server.ServeTLS(listener, "", "") }()
	l.t.Cleanup(func() { _ = server.Close(); <-ended })
}

// silent takes connections and never says anything.
func (l *lan) silent(addr string) {
	p := l.listen(addr)
	go func() {
		for {
			c, err := p.Accept()
			if err != nil {
				return
			}
			l.t.Cleanup(func() { _ = c.Close() })
		}
	}()
}

// site is a device that takes part and serves nobody.
func (l *lan) site(static ...string) *Site {
	c := Default()
	c.Static = static
	s := New(l.options("cam-0", c))
	s.out = ""
	s.http.Transport.(*http.Transport).DialContext = l.dial
	l.t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// artifact is one with its index.
type artifact struct {
	data  []byte
	name  string
	index block.Index
}

func newArtifact(t testing.TB, n int) artifact {
	t.Helper()
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(data) // never fails
	index, err := block.Make(t.Context(), bytes.NewReader(data), int64(n))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return artifact{data, hex.EncodeToString(sum[:]), index}
}

// peer answers as a device: what it says about the artifact, and blocks.
func (a artifact) peer(says func(r *http.Request) (state, bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			v, ok := says(r)
			if !ok {
				http.NotFound(w, r)
				return
			}
			_ = json.NewEncoder(w).Encode(v)
			return
		}
		i := slices.IndexFunc(a.index.Blocks, func(b block.Block) bool { return strings.HasSuffix(r.URL.Path, b.Name()) })
		if i < 0 {
			http.NotFound(w, r)
			return
		}
		b := a.index.Blocks[i]
		w.Header().Set("Content-Length", fmt.Sprint(b.Length))
		_, _ = w.Write(a.data[b.Offset:][:b.Length])
	}
}

// all is a peer that has the whole artifact.
func (a artifact) all() http.HandlerFunc {
	return a.peer(func(*http.Request) (state, bool) { return state{Have: len(a.index.Blocks)}, true })
}

// made is what came of making an artifact.
type made struct {
	copied, fetched int
	waited          time.Duration // in turns
}

// perSegment is how many blocks are fetched at once, and fetching how long each takes.
const (
	perSegment = 8
	fetching   = 10 * time.Second
)

// make makes the artifact as a download does.
func (a artifact) make(t testing.TB, s *Site) (m made) {
	t.Helper()
	return a.makeBy(t, s, fetching)
}

// makeBy is make over a link by which a block takes so long.
func (a artifact) makeBy(t testing.TB, s *Site, fetching time.Duration) (m made) {
	t.Helper()
	return a.makeOver(t, s, func() bool { time.Sleep(fetching); return true })
}

// makeOver is make by whatever brings the next block, or not.
func (a artifact) makeOver(t testing.TB, s *Site, fetch func() bool) (m made) {
	t.Helper()
	sh := s.Join(a.name, a.index, "")
	defer sh.Leave()
	for i := 0; i < len(a.index.Blocks); {
		if sh.Has(i) {
			_, err := sh.Block(t.Context(), i, make([]byte, a.index.Blocks[i].Length))
			if err == nil {
				m.copied++
				i++
				sh.Have(i)
			}
			continue
		}
		began, first := time.Now(), i/perSegment*perSegment
		mine, err := sh.Turn(t.Context(), i/perSegment, first, first+perSegment, i)
		if err != nil {
			t.Fatal(err)
		}
		m.waited += time.Since(began)
		if !mine {
			continue
		}
		done := sh.Fetches(first + perSegment)
		if fetch() {
			m.fetched++
			i++
			sh.Have(i)
		}
		done()
	}
	return m
}

// found is the announcement of a device at an address.
func found(device, addr string, artifacts ...string) mdns.Found {
	at := netip.MustParseAddrPort(addr)
	return mdns.Found{
		Service: mdns.Service{Name: Name(here, device), Port: at.Port(), Text: Text(here, artifacts)},
		Addr:    at, TTL: mdns.TTL,
	}
}

func bye(device, addr string) mdns.Found {
	f := found(device, addr)
	f.TTL = 0
	return f
}

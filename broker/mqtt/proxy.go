package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// ProxyProtocol lets load balancers say for whom they connect (PROXY protocol,
// version 2 only). It is the address in logs and audits, nothing else: who a
// client is, its certificate says.
type ProxyProtocol struct {
	// Trusted are the networks of the load balancers ("10.0.0.0/8"). Connections
	// from there must begin with a header, those from elsewhere must not. Empty:
	// no headers at all.
	Trusted []string `yaml:"trusted"`
}

// errProxy means that a header is missing, or bad, or not allowed.
var errProxy = errors.New("PROXY protocol")

// networks returns what Trusted says.
func (p ProxyProtocol) networks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for i, s := range p.Trusted {
		network, err := netip.ParsePrefix(s)
		if err != nil || network != network.Masked() {
			return nil, fmt.Errorf("trusted[%d]: %q is not a network, such as 10.0.0.0/8", i, s)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// fromProxy reports whether a connection must begin with a header.
func (l *listener) fromProxy(raw net.Conn) bool {
	address, ok := raw.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	from := address.AddrPort().Addr().Unmap().WithZone("")
	for _, network := range l.proxies {
		if network.Contains(from) {
			return true
		}
	}
	return false
}

// proxied is a connection that came through a load balancer.
type proxied struct {
	net.Conn
	in     *bufio.Reader // nil when what came with the header is used up
	remote net.Addr      // of the client
}

func (p *proxied) RemoteAddr() net.Addr { return p.remote }

func (p *proxied) Read(b []byte) (int, error) {
	if p.in == nil {
		return p.Conn.Read(b)
	}
	n, err := p.in.Read(b)
	if p.in.Buffered() == 0 {
		p.in = nil
	}
	return n, err
}

// readProxy reads the header, until ctx ends; the library limits its length. A
// load balancer that connects for itself says so in a header (LOCAL), or leaves
// without a word.
func readProxy(ctx context.Context, raw net.Conn) (net.Conn, error) {
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })() // wakes the reader
	in := bufio.NewReaderSize(raw, 256)
	if _, err := in.Peek(1); err != nil {
		return nil, err
	}
	header, err := proxyproto.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	if header.Version != 2 {
		return nil, fmt.Errorf("%w: version %d", errProxy, header.Version)
	}
	p := &proxied{Conn: raw, in: in, remote: raw.RemoteAddr()}
	if header.Command.IsLocal() {
		return p, nil
	}
	client, _, ok := header.TCPAddrs()
	if !ok {
		return nil, fmt.Errorf("%w: the client is not on TCP", errProxy)
	}
	p.remote = client
	return p, nil
}

// unwanted reports whether TLS failed because a header came instead of it.
func unwanted(err error) bool {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) {
		return false
	}
	first := record.RecordHeader[:]
	return bytes.HasPrefix(proxyproto.SIGV2, first) || bytes.HasPrefix(proxyproto.SIGV1, first)
}

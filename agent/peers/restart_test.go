package peers

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"testing"
	"time"

	"groundswell/agent/peers/mdns"
	"groundswell/topics"
)

// at is what is heard of a device at an address.
func at(name string, addr string) mdns.Found {
	return mdns.Found{Service: mdns.Service{Name: Name("t", name), Port: 1, Text: Text("t", []string{"00112233445566778899"})}, Addr: netip.MustParseAddrPort(addr), TTL: time.Hour}
}

func aSite() *Site {
	o := Options{TrustDomain: "t", Device: "me"}
	o.MaxUploads, o.UploadRate = 1, 1<<20
	return New(o)
}

// know has a site know who is at a place, as by its certificate.
func (s *Site) know(f mdns.Found, device string) *neighbour {
	s.met(f)
	n := s.near[f.Addr.String()]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recognised(n, device, f.Name)
	return n
}

// TestADeviceThatRestartsIsNotForgotten: it announces itself while its place is not tried.
func TestADeviceThatRestartsIsNotForgotten(t *testing.T) {
	s := aSite()
	f := at("a", "192.0.2.1:8447")
	n := s.know(f, "a")
	s.praise(n, true)
	s.fault(n, errAway)
	s.met(f)
	again := s.near[f.Addr.String()]
	if again == nil || again.device != "" || again.proven {
		t.Fatalf("%+v", again)
	}
	if s.usable(again, time.Now()) || !s.usable(again, time.Now().Add(maxAway)) {
		t.Error("it is tried at once, or never")
	}
	s.fault(again, errAway) // a stranger that is not there loses its place
	if s.near[f.Addr.String()] != nil {
		t.Error("it keeps a place")
	}
	if got := s.Faults(); got != (topics.PeerFaults{Away: 2}) {
		t.Errorf("it counts %+v", got)
	}
}

// gone is a transport that finds its connection closed, and then nobody to connect to.
type gone struct{ conn net.Conn }

func (g gone) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	trace.GetConn(r.URL.Host)
	trace.GotConn(httptrace.GotConnInfo{Conn: g.conn, Reused: true})
	trace.GetConn(r.URL.Host)
	return nil, errors.New("connection refused")
}

// TestWhoHasGoneIsNotBlamed: that nobody is there is not held against whoever was.
func TestWhoHasGoneIsNotBlamed(t *testing.T) {
	s := aSite()
	s.http.Transport = gone{&net.TCPConn{}}
	_, err := s.get(t.Context(), s.know(at("a", "192.0.2.1:8447"), "a"), "/", nil)
	if !errors.Is(err, errAway) {
		t.Errorf("%v, want %v", err, errAway)
	}
}

// TestOneCertificateHasFewPlaces, wherever it says that it is.
func TestOneCertificateHasFewPlaces(t *testing.T) {
	s := aSite()
	const honest = 40
	for i := range honest {
		name := fmt.Sprint("cam-", i)
		s.know(at(name, fmt.Sprintf("10.0.0.%d:8447", i)), name)
	}
	for port := range 300 {
		s.know(at("rogue", fmt.Sprintf("10.9.9.9:%d", 1000+port)), "rogue")
	}
	known, rogue := 0, 0
	for _, n := range s.near {
		if n.device == "rogue" {
			rogue++
		} else {
			known++
		}
	}
	if known != honest || rogue > maxPlaces {
		t.Errorf("%d of %d are known, and one at %d places", known, honest, rogue)
	}
}

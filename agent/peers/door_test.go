package peers_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
)

// knock opens connections from an address that say nothing, and tells how many of them are
// open.
func knock(t *testing.T, s *peers.Site, n int, ip string) *atomic.Int64 {
	t.Helper()
	var open atomic.Int64
	for range n {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		open.Add(1)
		go func() { _, _ = io.Copy(io.Discard, c); open.Add(-1) }()
	}
	return &open
}

// holder is a device's client, at an address, whose connections stay open.
func holder(t *testing.T, ca *certs.CA, device, ip string) *http.Client {
	t.Helper()
	config := peerstest.TLS(t, ca, device)
	transport := &http.Transport{
		TLSClientConfig: config, MaxIdleConns: 100, MaxIdleConnsPerHost: 100,
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// TestWhoSaysNothingKeepsNobodyOut: not from one address, nor from many.
func TestWhoSaysNothingKeepsNobodyOut(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 40, 200_000)
	path := "/artifacts/" + f.name
	became := func(what string, open []*atomic.Int64, want int64) {
		t.Helper()
		devtest.Eventually(t, devtest.Patience, what, func() error {
			var sum int64
			for _, n := range open {
				sum += n.Load()
			}
			if sum > want {
				return fmt.Errorf("%d are open, want %d", sum, want)
			}
			return nil
		})
	}
	open := []*atomic.Int64{knock(t, s, 80, "127.0.0.66")}
	became("the places to be taken", open, 64)
	if open[0].Load() == 0 {
		t.Error("it has none")
	}
	one := holder(t, ca, "cam-2", "127.0.0.2")
	if status, _ := get(t, one, s, path); status != http.StatusNotFound {
		t.Errorf("a device, beside one address: %d", status)
	}
	for k := range 20 {
		open = append(open, knock(t, s, 8, fmt.Sprintf("127.0.0.%d", 100+k)))
	}
	became("the oldest to make room", open, 64)
	two := holder(t, ca, "cam-3", "127.0.0.3")
	if status, _ := get(t, two, s, path); status != http.StatusNotFound {
		t.Errorf("a device, beside many addresses: %d", status)
	}
	became("their time to be over", open, 0)
}

// TestConnectionsAreBounded of one device, and of all together.
func TestConnectionsAreBounded(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s, f := serving(t, ca, nil), newFile(t, 41, 200_000)
	s.Join(f.name, f.index, f.path)
	path := "/artifacts/" + f.name
	// Each has a connection of its own, which stays open if the device lets it.
	hold := func(device, n int) (held []*http.Client) {
		t.Helper()
		for range n {
			c := holder(t, ca, fmt.Sprintf("cam-%d", device), fmt.Sprintf("127.0.0.%d", device))
			if status, _ := get(t, c, s, path); status != http.StatusOK {
				t.Fatalf("device %d, connection %d: %d", device, len(held), status)
			}
			held = append(held, c)
		}
		return held
	}
	hold(2, 3*16) // of which 16 stay
	hold(3, 16)
	hold(4, 16)
	last := hold(5, 15)
	knock(t, s, 1, "127.0.0.66")
	late := holder(t, ca, "cam-5", "127.0.0.5")
	devtest.Eventually(t, devtest.Patience, "the one that says nothing to make room", func() error {
		if status, _ := get(t, late, s, path); status != http.StatusOK {
			return fmt.Errorf("%d", status)
		}
		return nil
	})
	last = append(last, late)
	other := holder(t, ca, "cam-6", "127.0.0.6")
	if status, _ := get(t, other, s, path); status != 0 {
		t.Errorf("one too many: %d", status)
	}
	last[0].CloseIdleConnections()
	devtest.Eventually(t, devtest.Patience, "a place to be free", func() error {
		if status, _ := get(t, other, s, path); status != http.StatusOK {
			return errors.New("there is none")
		}
		return nil
	})
}

// TestWhoSendsABodyIsNotWaitedFor: there would be no end of it.
func TestWhoSendsABodyIsNotWaitedFor(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s := serving(t, ca, nil)
	config := peerstest.TLS(t, ca, "cam-2")
	config.InsecureSkipVerify = true // it is dialled by its address
	config.VerifyConnection, config.VerifyPeerCertificate = nil, nil
	for _, header := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		c, err := tls.Dial("tcp", s.Addr(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "GET /artifacts/x HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", header)
		_ = c.SetReadDeadline(time.Now().Add(devtest.Patience))
		if answer, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
			t.Errorf("%s: %.40q, %v", header, answer, err)
		}
	}
}

// TestNobodyIsServedFromElsewhere than by the interfaces that are named.
func TestNobodyIsServedFromElsewhere(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s := serving(t, ca, func(o *peers.Options) { o.Interfaces = []string{"no-such"} })
	if status, _ := get(t, asker(t, peerstest.TLS(t, ca, "cam-2")), s, "/artifacts/x"); status != 0 {
		t.Errorf("%d", status)
	}
}

func TestALongHeaderIsRefused(t *testing.T) {
	ca := peerstest.CA(t, peerstest.Domain)
	s := serving(t, ca, nil)
	c := asker(t, peerstest.TLS(t, ca, "cam-2"))
	if status, _ := get(t, c, s, "/artifacts/x", "X-Long", strings.Repeat("x", 3<<10)); status != http.StatusNotFound {
		t.Errorf("3 KiB: %d", status)
	}
	if status, _ := get(t, c, s, "/artifacts/x", "X-Long", strings.Repeat("x", 10<<10)); status != http.StatusRequestHeaderFieldsTooLarge && status != 0 {
		t.Errorf("10 KiB: %d", status)
	}
}

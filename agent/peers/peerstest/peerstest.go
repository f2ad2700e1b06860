// Package peerstest has devices of one site on loopback for tests: real ones, and servers
// that behave as they like behind a device's certificate.
package peerstest

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"groundswell/agent/peers"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
)

// Domain is the trust domain of the devices.
const Domain = "fleet.example.org"

// CA makes an authority of a trust domain.
func CA(t testing.TB, domain string) *certs.CA {
	t.Helper()
	ca, err := certs.NewCA(domain, time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Credential is a device's.
func Credential(t testing.TB, ca *certs.CA, device string) certs.Credential {
	t.Helper()
	c, err := ca.IssueDevice(device, "cam-x", "rev-b", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TLS is for a device that talks to devices.
func TLS(t testing.TB, ca *certs.CA, device string) *tls.Config {
	t.Helper()
	config, err := certs.DeviceTLS(certs.TLSOptions{Credential: Credential(t, ca, device), Authority: ca.Authority()})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Addrs are free addresses on loopback, which nobody else is given meanwhile: whoever is to know
// the others has to know where they will be.
func Addrs(t testing.TB, n int) []string {
	t.Helper()
	return devtest.FreeAddresses(t, n)
}

// Hurried has a device wait for others as shortly as is of use where some of them never answer.
// Where all mean well it must not: they are slow if the machine is.
func Hurried(o *peers.Options) { o.Grace, o.Patience = time.Second, 2*time.Second }

// Site runs a device until the test ends, with the waits of the field unless change says
// otherwise.
func Site(t testing.TB, ca *certs.CA, device, listen string, static []string, change func(*peers.Options)) *peers.Site {
	t.Helper()
	o := peers.Options{
		Config: peers.Default(), Device: device, TrustDomain: Domain, TLS: TLS(t, ca, device),
	}
	o.Listen, o.Static = listen, static
	if change != nil {
		change(&o)
	}
	s := peers.New(o)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// Serve has a handler answer behind a device's certificate.
func Serve(t testing.TB, ca *certs.CA, device string, h http.HandlerFunc) (addr string) {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.TLS = TLS(t, ca, device)
	server.StartTLS()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.Listener.Addr().String()
}

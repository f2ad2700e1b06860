package main

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
)

// A certificate lives shorter than a device: the next handshake takes the one
// that has been put in its place, and nothing that is not this device's.
func TestRenewedCertificateIsUsedWithoutARestart(t *testing.T) {
	now := time.Now()
	ca := must[*certs.CA](t)(certs.NewCA(domain, now.Add(-time.Hour), 48*time.Hour))
	dir := t.TempDir()
	cfg := Config{TLS: TLS{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca"), Resume: true}}
	if err := os.WriteFile(cfg.TLS.CA, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	issue := func(id, model string) *x509.Certificate {
		t.Helper()
		c := must[certs.Credential](t)(ca.IssueDevice(id, model, hardware, time.Hour))
		if err := c.Save(cfg.TLS.Cert, cfg.TLS.Key); err != nil {
			t.Fatal(err)
		}
		return c.Certificate
	}
	broker := must[certs.Credential](t)(ca.IssueService(certs.ServiceBroker, nil, time.Hour))
	server := must[*tls.Config](t)(certs.ServerTLS(certs.TLSOptions{Credential: broker, Authority: ca.Authority()}))

	first := issue("cam-1", model)
	credential, id, authority, err := identity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := must[*tls.Config](t)(newRenewed(cfg, id, credential, slog.New(slog.DiscardHandler)).client(authority, nil, certs.ServiceBroker))
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer listener.Close()
	var resumed bool
	shown := func(when string, want *x509.Certificate) {
		t.Helper()
		ours := must[net.Conn](t)(net.Dial("tcp", listener.Addr().String()))
		defer ours.Close()
		theirs := must[net.Conn](t)(listener.Accept())
		defer theirs.Close()
		_ = ours.SetDeadline(time.Now().Add(time.Minute)) // a connection takes any
		c, s := tls.Client(ours, client), tls.Server(theirs, server)
		done, read := make(chan error, 1), make(chan struct{})
		go func() {
			done <- c.HandshakeContext(t.Context())
			_, _ = c.Read(make([]byte, 1)) // takes the ticket
			close(read)
		}()
		if err := s.HandshakeContext(t.Context()); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		resumed = s.ConnectionState().DidResume
		_ = s.Close() // best effort
		<-read
		if got := s.ConnectionState().PeerCertificates[0]; !got.Equal(want) {
			t.Errorf("%s: number %x is shown, want %x", when, got.SerialNumber, want.SerialNumber)
		}
	}
	shown("at first", first)
	if shown("once more", first); !resumed {
		t.Error("the TLS session was not resumed")
	}
	second := issue("cam-1", model)
	shown("renewed", second)
	issue("cam-2", model)
	shown("another device's in its place", second)
	issue("cam-1", "cam-b")
	shown("of another model", second)
	if err := os.WriteFile(cfg.TLS.Cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	shown("damaged", second)
	if err := os.Remove(cfg.TLS.Key); err != nil {
		t.Fatal(err)
	}
	shown("lost", second)
	shown("renewed again", issue("cam-1", model))
}

// TestAuthoritiesOfSources: what cannot be read names the key.
func TestAuthoritiesOfSources(t *testing.T) {
	dir := t.TempDir()
	other := must[*certs.CA](t)(certs.NewCA("other.example.org", time.Now().Add(-time.Hour), time.Hour))
	for name, data := range map[string]string{"good": string(other.PEM()), "empty": "", "noise": "not a certificate"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pool, err := (Fetch{}).public(); pool != nil || err != nil {
		t.Errorf("without: %v, %v", pool, err)
	}
	if pool, err := (Fetch{Authorities: filepath.Join(dir, "good")}).public(); pool == nil || err != nil {
		t.Errorf("a file: %v, %v", pool, err)
	}
	for _, name := range []string{"empty", "noise", "absent"} {
		if pool, err := (Fetch{Authorities: filepath.Join(dir, name)}).public(); pool != nil || err == nil || !strings.HasPrefix(err.Error(), "fetch.authorities: ") {
			t.Errorf("%s: %v, %v", name, pool, err)
		}
	}
}

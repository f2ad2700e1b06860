package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	"groundswell/certs"
)

// public is a server's certificate that another authority than the fleet's has made, as a
// CDN has it, and that authority.
func public(t *testing.T, host string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "public"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	rootKey := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	root = must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey))))
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter,
	}
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey))
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool
}

// TestServersOfOtherAuthorities are taken where those are given, for the name that was
// asked for, and nowhere else.
func TestServersOfOtherAuthorities(t *testing.T) {
	ca := newCA(t, domain)
	server, pool := public(t, "cdn.example.com")
	_, others := public(t, "cdn.example.com")
	o := certs.TLSOptions{Credential: device(t, ca, "cam-1"), Authority: ca.Authority()}
	for name, c := range map[string]struct {
		host   string
		public *x509.CertPool
		now    time.Duration
		want   error
	}{
		"its name":             {"cdn.example.com", pool, 0, nil},
		"a clock that is late": {"cdn.example.com", pool, -48 * time.Hour, nil},
		"another name":         {"fleetd.example.com", pool, 0, certs.ErrChain},
		"no name":              {"", pool, 0, certs.ErrIdentity},
		"another authority":    {"cdn.example.com", others, 0, certs.ErrChain},
		"none is given":        {"cdn.example.com", nil, 0, certs.ErrChain},
		"expired":              {"cdn.example.com", pool, 2 * time.Hour, certs.ErrChain},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Public, o.Behind = c.public, true
			o.Now = func() time.Time { return time.Now().Add(c.now) }
			client := clientConfig(t, o)
			client.ServerName = c.host
			_, _, err := handshake(t, &tls.Config{Certificates: []tls.Certificate{server}}, client)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	// What is of the fleet is judged as before: the wrong service stays the wrong one.
	o.Public = pool
	client := clientConfig(t, o)
	client.ServerName = "cdn.example.com"
	wrong := service(t, ca, "fleetd")
	if _, _, err := handshake(t, &tls.Config{Certificates: []tls.Certificate{wrong.TLS()}}, client); !errors.Is(err, certs.ErrPeer) {
		t.Errorf("another service of the fleet: %v", err)
	}
}

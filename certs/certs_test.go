package certs_test

import (
	"crypto/x509"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"groundswell/certs"
)

const domain = "fleet.example.org"

func newCA(t testing.TB, trustDomain string) *certs.CA {
	t.Helper()
	ca, err := certs.NewCA(trustDomain, time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// must returns v, or ends the test.
func must[V any](t testing.TB) func(v V, err error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func device(t testing.TB, ca *certs.CA, id string) certs.Credential {
	t.Helper()
	return must[certs.Credential](t)(ca.IssueDevice(id, "cam-x", "rev-b", time.Hour))
}

func service(t testing.TB, ca *certs.CA, name string) certs.Credential {
	t.Helper()
	return must[certs.Credential](t)(ca.IssueService(name, []string{"127.0.0.1", "localhost"}, time.Hour))
}

func crl(t testing.TB, ca *certs.CA, number int64, revoked ...*x509.Certificate) []byte {
	t.Helper()
	var list []certs.Revocation
	for _, cert := range revoked {
		list = append(list, certs.Revocation{Serial: new(big.Int).Set(cert.SerialNumber), At: time.Now()})
	}
	return must[[]byte](t)(ca.SignCRL(number, list, time.Now(), time.Now().Add(time.Hour)))
}

func paths(t testing.TB) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

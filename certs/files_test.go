package certs_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/topics"
)

type signer struct{ crypto.Signer }

func (s signer) Public() any { return s.Signer.Public() }

func publicKey() (interface{ Public() any }, error) {
	key, err := certs.GenerateKey()
	return signer{key}, err
}

func TestCAAndCredentialsSurviveTheDisk(t *testing.T) {
	certFile, keyFile := paths(t)
	ca := newCA(t, domain)
	if err := ca.Save(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	again := must[*certs.CA](t)(certs.LoadCA(certFile, keyFile))
	if again.TrustDomain() != domain {
		t.Errorf("got trust domain %s", again.TrustDomain())
	}
	leaf := device(t, again, "cam-1")
	if err := ca.Authority().Verify(leaf.Certificate, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
		t.Error(err)
	}
	leafCert, leafKey := paths(t)
	if err := leaf.Save(leafCert, leafKey); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.LoadCredential(leafCert, leafKey); err != nil {
		t.Error(err)
	}
	for _, file := range []string{keyFile, leafKey} {
		if mode := must[os.FileInfo](t)(os.Stat(file)).Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o, want 600", file, mode)
		}
	}
	left := must[[]os.DirEntry](t)(os.ReadDir(filepath.Dir(leafKey)))
	if len(left) != 2 {
		t.Errorf("temporary files are left: %v", left)
	}
}

func TestFileRefusals(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, other := newCA(t, domain), newCA(t, domain)
	leaf := device(t, ca, "cam-1")
	if err := errors.Join(ca.Save(at("ca.pem"), at("ca.key")), other.Save(at("other.pem"), at("other.key")), leaf.Save(at("leaf.pem"), at("leaf.key"))); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte, mode os.FileMode) {
		if err := os.WriteFile(at(name), data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at(name), mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	key := must[[]byte](t)(os.ReadFile(at("leaf.key")))
	write("group.key", key, 0o640)
	write("world.key", key, 0o604)
	write("two.key", append(bytes.Clone(key), key...), 0o600)
	write("junk.key", []byte("junk"), 0o600)
	write("der.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("junk")}), 0o600)
	write("both.pem", append(ca.PEM(), other.PEM()...), 0o644)
	write("tail.pem", append(ca.PEM(), "tail"...), 0o644)
	write("key.pem", append(ca.PEM(), key...), 0o644)

	credential := func(cert, key string) error { _, err := certs.LoadCredential(at(cert), at(key)); return err }
	loadCA := func(cert, key string) error { _, err := certs.LoadCA(at(cert), at(key)); return err }
	authority := func(cert, _ string) error { _, err := certs.LoadAuthority(at(cert)); return err }
	for _, test := range []struct {
		name      string
		load      func(cert, key string) error
		cert, key string
		want      error
	}{
		{"key readable by the group", credential, "leaf.pem", "group.key", certs.ErrPermissions},
		{"key readable by the world", credential, "leaf.pem", "world.key", certs.ErrPermissions},
		{"two keys", credential, "leaf.pem", "two.key", certs.ErrFile},
		{"no key", credential, "leaf.pem", "junk.key", certs.ErrFile},
		{"no key inside", credential, "leaf.pem", "der.key", certs.ErrFile},
		{"another's key", credential, "leaf.pem", "ca.key", certs.ErrFile},
		{"key missing", credential, "leaf.pem", "none", os.ErrNotExist},
		{"certificate missing", credential, "none", "leaf.key", os.ErrNotExist},
		{"two certificates", credential, "both.pem", "leaf.key", certs.ErrFile},
		{"text after the certificate", credential, "tail.pem", "ca.key", certs.ErrFile},
		{"another CA's key", loadCA, "ca.pem", "other.key", certs.ErrFile},
		{"a leaf as CA", loadCA, "leaf.pem", "leaf.key", certs.ErrFile},
		{"two CAs", loadCA, "both.pem", "ca.key", certs.ErrFile},
		{"a leaf as authority", authority, "leaf.pem", "", certs.ErrFile},
		{"a key among the authorities", authority, "key.pem", "", certs.ErrFile},
		{"no authority", authority, "junk.key", "", certs.ErrFile},
		{"two authorities", authority, "both.pem", "", nil},
	} {
		if err := test.load(test.cert, test.key); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

func TestCredentialNeverPrintsItsKey(t *testing.T) {
	ca := newCA(t, domain)
	leaf := device(t, ca, "cam-1")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credential", leaf, "ca", ca)
	printed := log.String() + fmt.Sprintf("%v %+v %#v %s %d | %v %+v %#v %d", leaf, leaf, leaf, leaf, leaf, ca, ca, ca, ca)
	key := leaf.TLS().PrivateKey.(*ecdsa.PrivateKey)
	raw := must[[]byte](t)(key.Bytes())
	if strings.Contains(printed, fmt.Sprint(raw)) || strings.Contains(printed, fmt.Sprintf("%x", raw)) || strings.Contains(printed, "PrivateKey") {
		t.Errorf("printed %s", printed)
	}
	if !strings.Contains(printed, "cam-1") {
		t.Errorf("the credential is not named: %s", printed)
	}
}

func TestOnlyTheKeyIsTakenFromARequest(t *testing.T) {
	ca := newCA(t, domain)
	key := must[crypto.Signer](t)(certs.GenerateKey())
	fleetd, _ := url.Parse("spiffe://" + domain + "/service/fleetd")
	greedy := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "fleetd", OrganizationalUnit: []string{"cam-z"}, SerialNumber: "rev-z"},
		URIs:        []*url.URL{fleetd},
		DNSNames:    []string{"broker.example.org"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key))
	public := must[crypto.PublicKey](t)(certs.CheckCSR(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: greedy})))
	id := certs.Identity{TrustDomain: domain, Kind: topics.PrincipalDevice, Name: "cam-1", Model: "cam-x", Hardware: "rev-b"}
	cert := must[*x509.Certificate](t)(ca.Issue(certs.Request{Identity: id, PublicKey: public, Lifetime: time.Hour}))
	if got := must[certs.Identity](t)(certs.ParseIdentity(cert)); got != id {
		t.Errorf("got %+v, want %+v", got, id)
	}
	if _, err := certs.NewCredential(cert, key); err != nil {
		t.Error(err)
	}
	for _, use := range cert.ExtKeyUsage {
		if use == x509.ExtKeyUsageServerAuth {
			t.Error("a device may play server")
		}
	}
}

func TestRequestRefusals(t *testing.T) {
	key := must[crypto.Signer](t)(certs.GenerateKey())
	good := must[[]byte](t)(certs.NewCSR(key))
	if _, err := certs.CheckCSR(good); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	tampered := bytes.Clone(block.Bytes)
	tampered[len(tampered)-1] ^= 1
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	p224 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"a certificate":   newCA(t, domain).PEM(),
		"two requests":    append(bytes.Clone(good), good...),
		"a bad signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: tampered}),
		"junk":            pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("junk")}),
		"an RSA key":      must[[]byte](t)(certs.NewCSR(rsaKey)),
		"a P-224 key":     must[[]byte](t)(certs.NewCSR(p224)),
		"an endless one":  append(bytes.Clone(good), bytes.Repeat([]byte("\n"), certs.MaxCSR)...),
	} {
		if _, err := certs.CheckCSR(data); !errors.Is(err, certs.ErrRequest) {
			t.Errorf("%s: got %v, want %v", name, err, certs.ErrRequest)
		}
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	if _, err := certs.CheckCSR(must[[]byte](t)(certs.NewCSR(ed))); err != nil {
		t.Errorf("Ed25519: %v", err)
	}
}

func TestRevocationList(t *testing.T) {
	ca, other := newCA(t, domain), newCA(t, "other.example.org")
	bad, good := device(t, ca, "cam-1"), device(t, ca, "cam-2")
	list := must[*certs.CRL](t)(certs.ParseCRL(crl(t, ca, 7, bad.Certificate), ca.Authority()))
	if err := list.Check(bad.Certificate); !errors.Is(err, certs.ErrRevoked) {
		t.Errorf("got %v, want %v", err, certs.ErrRevoked)
	}
	if err := list.Check(good.Certificate); err != nil {
		t.Error(err)
	}
	if err := list.Check(nil); !errors.Is(err, certs.ErrRevoked) {
		t.Errorf("no certificate: got %v", err)
	}
	if list.Number().Int64() != 7 || len(list.Entries()) != 1 {
		t.Errorf("got number %s and %d entries", list.Number(), len(list.Entries()))
	}
	if list.Stale(time.Now()) || !list.Stale(time.Now().Add(2*time.Hour)) {
		t.Error("stale at the wrong time")
	}
	text := crl(t, ca, 8)
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"another authority's": crl(t, other, 7),
		"of the same name":    crl(t, newCA(t, domain), 7),
		"twice":               append(bytes.Clone(text), text...),
		"a certificate":       ca.PEM(),
		"junk":                pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("junk")}),
	} {
		if _, err := certs.ParseCRL(data, ca.Authority()); !errors.Is(err, certs.ErrCRL) {
			t.Errorf("%s: got %v, want %v", name, err, certs.ErrCRL)
		}
	}
}

func TestRevocationFileIsFollowed(t *testing.T) {
	ca := newCA(t, domain)
	leaf := device(t, ca, "cam-1")
	file := filepath.Join(t.TempDir(), "crl.pem")
	log := slog.New(slog.DiscardHandler)
	if _, err := certs.OpenCRLFile(file, ca.Authority(), log, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	publish := func(data []byte) {
		if err := certs.WritePublicFile(file, data); err != nil {
			t.Fatal(err)
		}
	}
	publish(crl(t, ca, 1))
	changed := make(chan struct{}, 10)
	f := must[*certs.CRLFile](t)(certs.OpenCRLFile(file, ca.Authority(), log, func() { changed <- struct{}{} }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	if err := f.Check(leaf.Certificate); err != nil {
		t.Error(err)
	}

	publish(crl(t, ca, 2, leaf.Certificate))
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("the new list was not noticed")
	}
	if err := f.Check(leaf.Certificate); !errors.Is(err, certs.ErrRevoked) {
		t.Errorf("got %v, want %v", err, certs.ErrRevoked)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// Lists that are not better leave the last good one in force.
	for name, test := range map[string]struct {
		data []byte
		want error
	}{
		"older":    {crl(t, ca, 1), certs.ErrCRLRollback},
		"junk":     {[]byte("junk"), certs.ErrCRL},
		"a forger": {crl(t, newCA(t, domain), 3), certs.ErrCRL},
	} {
		publish(test.data)
		if _, err := f.Reload(); !errors.Is(err, test.want) || !errors.Is(f.Err(), test.want) {
			t.Errorf("%s: got %v and %v, want %v", name, err, f.Err(), test.want)
		}
		if err := f.Check(leaf.Certificate); !errors.Is(err, certs.ErrRevoked) {
			t.Errorf("%s: the revocation was forgotten", name)
		}
	}
	publish(crl(t, ca, 3))
	if changed, err := f.Reload(); err != nil || !changed || f.Err() != nil {
		t.Errorf("got %v, %v, %v", changed, err, f.Err())
	}
}

func FuzzCheckCSR(f *testing.F) {
	key := must[crypto.Signer](f)(certs.GenerateKey())
	f.Add(must[[]byte](f)(certs.NewCSR(key)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if public, err := certs.CheckCSR(data); err == nil && public == nil {
			t.Error("accepted without a key")
		}
	})
}

func FuzzParseCRL(f *testing.F) {
	ca := newCA(f, domain)
	f.Add(crl(f, ca, 1, device(f, ca, "cam-1").Certificate))
	f.Fuzz(func(t *testing.T, data []byte) {
		if list, err := certs.ParseCRL(data, ca.Authority()); err == nil && list.Number().Sign() <= 0 {
			t.Error("accepted without a number")
		}
	})
}

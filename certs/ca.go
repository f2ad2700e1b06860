package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"time"
)

// Backdate is how long before its making a certificate becomes valid, for
// peers whose clocks are slow.
const Backdate = time.Hour

// CA is the certificate authority of one trust domain. Its key is ECDSA P-256.
type CA struct {
	trustDomain string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes an authority with a fresh key, valid from now for the given
// time.
func NewCA(trustDomain string, now time.Time, lifetime time.Duration) (*CA, error) {
	if err := CheckTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Groundswell CA of " + clip(trustDomain, 40)},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs leaves and nothing else
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("create CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("create CA certificate: %w", err)
	}
	return &CA{trustDomain: trustDomain, cert: cert, key: key}, nil
}

// LoadCA reads what Save wrote.
func LoadCA(certFile, keyFile string) (*CA, error) {
	authority, err := LoadAuthority(certFile)
	if err != nil {
		return nil, err
	}
	if len(authority.certs) != 1 {
		return nil, fmt.Errorf("%w: %s holds %d certificates instead of one", ErrFile, certFile, len(authority.certs))
	}
	signer, err := loadKey(keyFile)
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: %s is not an ECDSA P-256 key", ErrFile, keyFile)
	}
	cert := authority.certs[0]
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%w: %s is not the key of %s", ErrFile, keyFile, certFile)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Path != "" {
		return nil, fmt.Errorf("%w: %s names no trust domain", ErrFile, certFile)
	}
	ca := &CA{trustDomain: cert.URIs[0].Host, cert: cert, key: key}
	if err := CheckTrustDomain(ca.trustDomain); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return ca, nil
}

// Save writes the certificate (0644) and the key (0600) as PEM.
func (ca *CA) Save(certFile, keyFile string) error {
	if err := saveKey(keyFile, ca.key); err != nil {
		return fmt.Errorf("save CA key: %w", err)
	}
	if err := WritePublicFile(certFile, ca.PEM()); err != nil {
		return fmt.Errorf("save CA certificate: %w", err)
	}
	return nil
}

// TrustDomain is the domain that the authority speaks for.
func (ca *CA) TrustDomain() string { return ca.trustDomain }

// PEM is the authority's certificate.
func (ca *CA) PEM() []byte { return encodeCertificate(ca.cert) }

// Authority is the public half: what peers check certificates against.
func (ca *CA) Authority() *Authority { return newAuthority(ca.cert) }

// String names the authority and never its key.
func (ca *CA) String() string { return "CA of " + ca.trustDomain }

// GoString is String.
func (ca *CA) GoString() string { return ca.String() }

// Format keeps every verb of fmt, also %d, from reaching into the key.
func (ca *CA) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(ca.String())) } // fmt has no way to report it

// LogValue is String.
func (ca *CA) LogValue() slog.Value { return slog.StringValue(ca.String()) }

// newSerial is 127 random bits, positive (RFC 5280 section 4.1.2.2).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

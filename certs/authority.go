package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"
)

// Authority is the public half of one or more CAs: what a peer's certificate
// is checked against. More than one stands there while a CA is replaced.
type Authority struct {
	certs []*x509.Certificate
	pool  *x509.CertPool
}

// LoadAuthority reads CA certificates from a PEM file.
func LoadAuthority(file string) (*Authority, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	authority, err := ParseAuthority(data)
	if err != nil {
		return nil, fmt.Errorf("load authority %s: %w", file, err)
	}
	return authority, nil
}

// ParseAuthority reads CA certificates from PEM text.
func ParseAuthority(data []byte) (*Authority, error) {
	certs, err := decodeCertificates(data)
	if err != nil {
		return nil, err
	}
	for _, cert := range certs {
		if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, fmt.Errorf("%w: %q is not an authority's certificate", ErrFile, cert.Subject.CommonName)
		}
	}
	return newAuthority(certs...), nil
}

func newAuthority(certs ...*x509.Certificate) *Authority {
	a := &Authority{certs: certs, pool: x509.NewCertPool()}
	for _, cert := range certs {
		a.pool.AddCert(cert)
	}
	return a
}

// Includes reports whether what ca issues is believed.
func (a *Authority) Includes(ca *CA) bool {
	return slices.ContainsFunc(a.certs, ca.cert.Equal)
}

// Pool is for the standard library's own checks.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// Verify checks that a leaf certificate chains to the authority, is valid at
// the given time and is meant for use. It is ErrChain otherwise. Host names
// are not looked at.
func (a *Authority) Verify(cert *x509.Certificate, use x509.ExtKeyUsage, now time.Time) error {
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       a.pool,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{use},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	return nil
}

// decodeCertificates reads PEM text that holds certificates, at least one, and
// nothing else.
func decodeCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: PEM block %.40q instead of a certificate", ErrFile, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFile, err)
		}
		certs, data = append(certs, cert), rest
	}
	if len(certs) == 0 || len(bytes.TrimSpace(data)) > 0 {
		return nil, fmt.Errorf("%w: not PEM certificates", ErrFile)
	}
	return certs, nil
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

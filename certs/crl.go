package certs

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Revocation is one entry of a revocation list.
type Revocation struct {
	Serial *big.Int
	At     time.Time // when it was revoked
}

// SignCRL makes a revocation list (PEM). number counts the lists of the CA
// and must grow. next is when the following list is due.
func (ca *CA) SignCRL(number int64, revoked []Revocation, now, next time.Time) ([]byte, error) {
	if number < 1 {
		return nil, fmt.Errorf("%w: number %d", ErrCRL, number)
	}
	template := &x509.RevocationList{
		Number:     big.NewInt(number),
		ThisUpdate: now,
		NextUpdate: next,
	}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: r.At})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

// CRL is a verified revocation list. It is safe for concurrent use.
type CRL struct {
	number  *big.Int
	next    time.Time
	issuer  string // raw subject of the CA
	entries []Revocation
	revoked map[string]struct{} // serial numbers, as their bytes
}

// ParseCRL reads a revocation list (PEM) and checks that the authority signed
// it. Every refusal is ErrCRL. A list that is past its next update is
// accepted: see Stale.
func ParseCRL(data []byte, authority *Authority) (*CRL, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrCRL, maxFile)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "X509 CRL" || len(rest) > 0 {
		return nil, fmt.Errorf("%w: not one PEM revocation list", ErrCRL)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCRL, err)
	}
	issuer := authority.signerOf(list)
	if issuer == nil {
		return nil, fmt.Errorf("%w: not signed by the authority", ErrCRL)
	}
	if list.Number == nil || list.Number.Sign() <= 0 {
		return nil, fmt.Errorf("%w: no number", ErrCRL)
	}
	crl := &CRL{
		number:  list.Number,
		next:    list.NextUpdate,
		issuer:  string(issuer.RawSubject),
		revoked: make(map[string]struct{}, len(list.RevokedCertificateEntries)),
	}
	for _, entry := range list.RevokedCertificateEntries {
		crl.entries = append(crl.entries, Revocation{Serial: entry.SerialNumber, At: entry.RevocationTime})
		crl.revoked[string(entry.SerialNumber.Bytes())] = struct{}{}
	}
	return crl, nil
}

func (a *Authority) signerOf(list *x509.RevocationList) *x509.Certificate {
	for _, cert := range a.certs {
		if string(cert.RawSubject) == string(list.RawIssuer) && list.CheckSignatureFrom(cert) == nil {
			return cert
		}
	}
	return nil
}

// Check is ErrRevoked when the list names the certificate.
func (c *CRL) Check(cert *x509.Certificate) error {
	if cert == nil {
		return fmt.Errorf("%w: no certificate", ErrRevoked)
	}
	if string(cert.RawIssuer) != c.issuer {
		return nil // another CA's serial numbers mean nothing here
	}
	if _, ok := c.revoked[string(cert.SerialNumber.Bytes())]; ok {
		return fmt.Errorf("%w: serial %x", ErrRevoked, cert.SerialNumber)
	}
	return nil
}

// Number counts the lists of the CA.
func (c *CRL) Number() *big.Int { return new(big.Int).Set(c.number) }

// Entries is what the list holds, to make the next one from.
func (c *CRL) Entries() []Revocation { return append([]Revocation(nil), c.entries...) }

// Stale reports whether the following list was due before now. The list is
// still enforced; that it is not renewed is for monitoring to say.
func (c *CRL) Stale(now time.Time) bool { return !c.next.IsZero() && now.After(c.next) }

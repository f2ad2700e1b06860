package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
)

// Credential is a leaf certificate with its private key: what a party proves
// itself with. It never prints the key.
type Credential struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// GenerateKey makes a private key of the kind that is used for certificates:
// ECDSA P-256.
func GenerateKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return key, nil
}

// NewCredential puts a certificate and its key together. It is ErrFile when
// they do not belong together.
func NewCredential(cert *x509.Certificate, key crypto.Signer) (Credential, error) {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return Credential{}, fmt.Errorf("%w: the key is not the certificate's", ErrFile)
	}
	return Credential{Certificate: cert, key: key}, nil
}

// LoadCredential reads what Save wrote: one certificate and its key, in PEM.
func LoadCredential(certFile, keyFile string) (Credential, error) {
	data, err := readFile(certFile)
	if err != nil {
		return Credential{}, fmt.Errorf("load certificate: %w", err)
	}
	certs, err := decodeCertificates(data)
	if err != nil {
		return Credential{}, fmt.Errorf("load certificate %s: %w", certFile, err)
	}
	if len(certs) != 1 {
		return Credential{}, fmt.Errorf("%w: %s holds %d certificates instead of one", ErrFile, certFile, len(certs))
	}
	key, err := loadKey(keyFile)
	if err != nil {
		return Credential{}, err
	}
	c, err := NewCredential(certs[0], key)
	if err != nil {
		return Credential{}, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	return c, nil
}

// Save writes the certificate (0644) and the key (0600) as PEM. The key is
// written first, so that a certificate on disk always has its key.
func (c Credential) Save(certFile, keyFile string) error {
	if err := saveKey(keyFile, c.key); err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	if err := WritePublicFile(certFile, encodeCertificate(c.Certificate)); err != nil {
		return fmt.Errorf("save certificate: %w", err)
	}
	return nil
}

// Identity is who the credential speaks for.
func (c Credential) Identity() (Identity, error) { return ParseIdentity(c.Certificate) }

// TLS is the credential as crypto/tls wants it.
func (c Credential) TLS() tls.Certificate {
	return tls.Certificate{
		Certificate: [][]byte{c.Certificate.Raw},
		PrivateKey:  c.key,
		Leaf:        c.Certificate,
	}
}

// String names the certificate and never the key.
func (c Credential) String() string {
	if c.Certificate == nil {
		return "no credential"
	}
	id, err := c.Identity()
	if err != nil {
		return "credential without identity"
	}
	return "credential of " + id.URI()
}

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// Format keeps every verb of fmt, also %d, from reaching into the key.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) } // fmt has no way to report it

// LogValue is String.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

func loadKey(file string) (crypto.Signer, error) {
	data, err := ReadPrivateFile(file)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fmt.Errorf("%w: %s is not one PEM private key (PKCS #8)", ErrFile, file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, file, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %s holds a key that cannot sign", ErrFile, file)
	}
	return key, nil
}

func saveKey(file string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return WritePrivateFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

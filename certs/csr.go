package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// MaxCSR is the largest certificate request that is read, in bytes.
const MaxCSR = 16 << 10

// NewCSR makes a certificate request (PEM) that proves possession of key. It
// names nobody: who the holder is, the issuer decides.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// CheckCSR reads a certificate request (PEM), checks that its sender holds the
// key, and returns that key for Request.PublicKey. Names, addresses and
// extensions in the request are not looked at: the issuer gives those. Every
// refusal is ErrRequest.
func CheckCSR(data []byte) (crypto.PublicKey, error) {
	if len(data) > MaxCSR {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrRequest, MaxCSR)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: not one PEM certificate request", ErrRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	// The kind of key comes first: checking a signature by a huge RSA key is
	// work that a stranger could order.
	if err := checkPublicKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return csr.PublicKey, nil
}

func checkPublicKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		if len(key) == ed25519.PublicKeySize {
			return nil
		}
	}
	return fmt.Errorf("%w: the key is neither ECDSA P-256 or P-384 nor Ed25519", ErrRequest)
}

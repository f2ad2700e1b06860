package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"

	"groundswell/certs"
)

// Key is a private Ed25519 key that signs tokens. It never prints itself.
type Key struct{ private ed25519.PrivateKey }

// GenerateKey makes a key.
func GenerateKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate token key: %w", err)
	}
	return &Key{private: private}, nil
}

// Public is the public half.
func (k *Key) Public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// ID is the key id that stands in the tokens.
func (k *Key) ID() string { return KeyID(k.Public()) }

// KeyID is the RFC 7638 thumbprint of a public key.
func KeyID(public ed25519.PublicKey) string {
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// String names the key by its id.
func (k *Key) String() string { return "token key " + k.ID() }

// GoString is String.
func (k *Key) GoString() string { return k.String() }

// Format keeps every verb of fmt from reaching into the key.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) } // fmt has no way to report it

// LogValue is String.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Save writes the private key (PKCS #8 PEM, mode 0600) and the public key
// (PEM, mode 0644).
func (k *Key) Save(privateFile, publicFile string) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return fmt.Errorf("save token key: %w", err)
	}
	if err := certs.WritePrivateFile(privateFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return fmt.Errorf("save token key: %w", err)
	}
	der, err = x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return fmt.Errorf("save token key: %w", err)
	}
	if err := certs.WritePublicFile(publicFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		return fmt.Errorf("save token key: %w", err)
	}
	return nil
}

// LoadKey reads a private key. A file that group or world can read is
// certs.ErrPermissions.
func LoadKey(file string) (*Key, error) {
	data, err := certs.ReadPrivateFile(file)
	if err != nil {
		return nil, fmt.Errorf("load token key: %w", err)
	}
	der, err := block(data, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, file, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s is not an Ed25519 key", ErrKeyFile, file)
	}
	return &Key{private: private}, nil
}

// LoadPublicKey reads a public key.
func LoadPublicKey(file string) (ed25519.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load token key: %w", err)
	}
	der, err := block(data, "PUBLIC KEY")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, file, err)
	}
	public, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s is not an Ed25519 key", ErrKeyFile, file)
	}
	return public, nil
}

func block(data []byte, kind string) ([]byte, error) {
	b, rest := pem.Decode(data)
	if b == nil || b.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: not one PEM %s", ErrKeyFile, kind)
	}
	return b.Bytes, nil
}

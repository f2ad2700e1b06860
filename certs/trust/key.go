package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"

	"groundswell/certs"
)

// Key is a private Ed25519 key. It never prints itself.
type Key struct {
	private ed25519.PrivateKey
	public  PublicKey
}

// GenerateKey makes a key.
func GenerateKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newKey(private)
}

func newKey(private ed25519.PrivateKey) (*Key, error) {
	public, err := newPublicKey(private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Key{private: private, public: public}, nil
}

// ID is the TUF key id: SHA-256 of the public key's canonical form, in hex.
func (k *Key) ID() string { return k.public.id }

// Public is the public half.
func (k *Key) Public() PublicKey { return k.public }

// String names the key by its id.
func (k *Key) String() string { return "key " + k.ID() }

// GoString is String.
func (k *Key) GoString() string { return k.String() }

// Format keeps every verb of fmt, also %x, from reaching into the key.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) } // fmt has no way to report it

// LogValue is String.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON refuses: a private key is saved by Save and by nothing else.
func (k *Key) MarshalJSON() ([]byte, error) {
	return nil, fmt.Errorf("%w: a private key is not for JSON", ErrKey)
}

func (k *Key) signer() (signature.Signer, error) {
	signer, err := signature.LoadED25519Signer(k.private)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return signer, nil
}

// The two forms of a key file, both PEM:
//
//   - "PRIVATE KEY": PKCS #8, not encrypted, as openssl writes it;
//   - "GROUNDSWELL ENCRYPTED KEY": the same PKCS #8 bytes in a NaCl secretbox
//     (XSalsa20-Poly1305) under scrypt(passphrase, salt, N=32768, r=8, p=1,
//     32 bytes). The bytes are salt (32), nonce (24), box. The header Kdf names
//     the parameters, and only these are accepted, so that a hostile file
//     cannot order gigabytes of work.
const (
	pemPlain     = "PRIVATE KEY"
	pemEncrypted = "GROUNDSWELL ENCRYPTED KEY"
	kdfName      = "scrypt-32768-8-1"
	saltSize     = 32
	nonceSize    = 24
)

// Save writes the key with mode 0600, encrypted when the passphrase is not
// empty.
func (k *Key) Save(file string, passphrase []byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	block := &pem.Block{Type: pemPlain, Bytes: der}
	if len(passphrase) > 0 {
		sealed := make([]byte, saltSize+nonceSize)
		if _, err := rand.Read(sealed); err != nil {
			return fmt.Errorf("save key: %w", err)
		}
		secret, err := derive(passphrase, sealed[:saltSize])
		if err != nil {
			return fmt.Errorf("save key: %w", err)
		}
		nonce := [nonceSize]byte(sealed[saltSize:])
		block = &pem.Block{
			Type:    pemEncrypted,
			Headers: map[string]string{"Kdf": kdfName, "Key-Id": k.ID()},
			Bytes:   secretbox.Seal(sealed, der, &nonce, secret),
		}
	}
	if err := certs.WritePrivateFile(file, pem.EncodeToMemory(block)); err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}

// LoadKey reads a key file. passphrase is called only when the file is
// encrypted; nil refuses such a file with ErrPassphrase, as does a wrong
// passphrase. A file that group or world can read is certs.ErrPermissions, any
// other fault ErrKey.
func LoadKey(file string, passphrase func() ([]byte, error)) (*Key, error) {
	data, err := certs.ReadPrivateFile(file)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	key, err := parseKey(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", file, err)
	}
	return key, nil
}

func parseKey(data []byte, passphrase func() ([]byte, error)) (*Key, error) {
	block, rest := pem.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: not one PEM block", ErrKey)
	}
	der := block.Bytes
	switch block.Type {
	case pemPlain:
	case pemEncrypted:
		if block.Headers["Kdf"] != kdfName || len(der) < saltSize+nonceSize+secretbox.Overhead {
			return nil, fmt.Errorf("%w: unknown encryption", ErrKey)
		}
		if passphrase == nil {
			return nil, fmt.Errorf("%w: the key is encrypted", ErrPassphrase)
		}
		given, err := passphrase()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
		}
		secret, err := derive(given, der[:saltSize])
		if err != nil {
			return nil, err
		}
		nonce := [nonceSize]byte(der[saltSize : saltSize+nonceSize])
		opened, ok := secretbox.Open(nil, der[saltSize+nonceSize:], &nonce, secret)
		if !ok {
			return nil, fmt.Errorf("%w: the key does not open", ErrPassphrase)
		}
		der = opened
	default:
		return nil, fmt.Errorf("%w: PEM block %.40q", ErrKey, block.Type)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an Ed25519 key", ErrKey)
	}
	return newKey(private)
}

func derive(passphrase, salt []byte) (*[32]byte, error) {
	secret, err := scrypt.Key(passphrase, salt, 32768, 8, 1, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return (*[32]byte)(secret), nil
}

// PublicKey is the public half of a Key. In JSON it is a TUF key.
type PublicKey struct {
	key ed25519.PublicKey
	id  string
}

func newPublicKey(key ed25519.PublicKey) (PublicKey, error) {
	tuf, err := metadata.KeyFromPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	id, err := tuf.ID()
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return PublicKey{key: key, id: id}, nil
}

// ID is the TUF key id.
func (p PublicKey) ID() string { return p.id }

// String names the key by its id.
func (p PublicKey) String() string { return "public key " + p.id }

// IsZero reports whether there is no key.
func (p PublicKey) IsZero() bool { return len(p.key) == 0 }

type publicKeyJSON struct {
	Type   string `json:"keytype"`
	Scheme string `json:"scheme"`
	Value  struct {
		Public string `json:"public"`
	} `json:"keyval"`
}

// MarshalJSON writes a TUF key.
func (p PublicKey) MarshalJSON() ([]byte, error) {
	if p.IsZero() {
		return nil, fmt.Errorf("%w: no key", ErrKey)
	}
	out := publicKeyJSON{Type: metadata.KeyTypeEd25519, Scheme: metadata.KeySchemeEd25519}
	out.Value.Public = hex.EncodeToString(p.key)
	return json.Marshal(out)
}

// UnmarshalJSON reads a TUF key; anything but Ed25519 is ErrKey.
func (p *PublicKey) UnmarshalJSON(data []byte) error {
	var in publicKeyJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	if in.Type != metadata.KeyTypeEd25519 || in.Scheme != metadata.KeySchemeEd25519 {
		return fmt.Errorf("%w: type %.40q with scheme %.40q", ErrKey, in.Type, in.Scheme)
	}
	raw, err := hex.DecodeString(in.Value.Public)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: not %d bytes in hex", ErrKey, ed25519.PublicKeySize)
	}
	key, err := newPublicKey(raw)
	if err != nil {
		return err
	}
	*p = key
	return nil
}

// Save writes the public key as JSON, readable by all.
func (p PublicKey) Save(file string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save public key: %w", err)
	}
	if err := certs.WritePublicFile(file, append(data, '\n')); err != nil {
		return fmt.Errorf("save public key: %w", err)
	}
	return nil
}

// LoadPublicKey reads what Save wrote.
func LoadPublicKey(file string) (PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return PublicKey{}, fmt.Errorf("load public key: %w", err)
	}
	var p PublicKey
	if err := json.Unmarshal(data, &p); err != nil {
		return PublicKey{}, fmt.Errorf("load public key %s: %w", file, err)
	}
	return p, nil
}

func (p PublicKey) tuf() (*metadata.Key, error) {
	key, err := metadata.KeyFromPublicKey(p.key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return key, nil
}

func publicKeyOf(key *metadata.Key) (PublicKey, error) {
	raw, err := hex.DecodeString(key.Value.PublicKey)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("%w: not %d bytes in hex", ErrKey, ed25519.PublicKeySize)
	}
	return newPublicKey(raw)
}

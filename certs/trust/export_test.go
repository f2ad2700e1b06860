package trust

import (
	"crypto/ed25519"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Forge signs whatever raw says with keys, without any of the checks: what a
// thief of the keys can do.
func Forge[T metadata.Roles](raw []byte, keys ...*Key) ([]byte, error) {
	meta, err := new(metadata.Metadata[T]).FromBytes(raw)
	if err != nil {
		return nil, err
	}
	meta.ClearSignatures()
	for _, key := range keys {
		if err := sign(meta, key); err != nil {
			return nil, err
		}
	}
	return meta.ToBytes(false)
}

// The roles for Forge.
type (
	RootRole      = metadata.RootType
	TargetsRole   = metadata.TargetsType
	SnapshotRole  = metadata.SnapshotType
	TimestampRole = metadata.TimestampType
)

// ParseKey is parseKey.
func ParseKey(data []byte, passphrase func() ([]byte, error)) (*Key, error) {
	return parseKey(data, passphrase)
}

// KeyFromSeed makes the same key for the same seed, so that what a fuzzer
// found can be tried again.
func KeyFromSeed(seed [32]byte) (*Key, error) { return newKey(ed25519.NewKeyFromSeed(seed[:])) }

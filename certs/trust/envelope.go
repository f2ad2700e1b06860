package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// bodyField is the key of the signed part that holds what go-tuf does not
// know: the body of a manifest, or what a root belongs to.
const bodyField = "groundswell"

// head is what the signed parts of all roles have in common.
type head struct {
	kind    string
	spec    string
	version int64
	expires time.Time
	extra   map[string]any
}

// document is metadata as parsed, with what all roles have in common.
type document[T metadata.Roles] struct {
	head
	meta *metadata.Metadata[T]
}

// parse reads metadata of one role. Nothing in it is verified yet.
func parse[T metadata.Roles](raw []byte, limit int) (document[T], error) {
	if err := scan(raw, limit); err != nil {
		return document[T]{}, err
	}
	meta, err := new(metadata.Metadata[T]).FromBytes(raw)
	if err != nil {
		return document[T]{}, malformed("%w", err)
	}
	doc := document[T]{meta: meta}
	want := ""
	switch signed := any(&meta.Signed).(type) {
	case *metadata.RootType:
		want = metadata.ROOT
		doc.head = head{signed.Type, signed.SpecVersion, signed.Version, signed.Expires, signed.UnrecognizedFields}
	case *metadata.TargetsType:
		want = metadata.TARGETS
		doc.head = head{signed.Type, signed.SpecVersion, signed.Version, signed.Expires, signed.UnrecognizedFields}
	case *metadata.SnapshotType:
		want = metadata.SNAPSHOT
		doc.head = head{signed.Type, signed.SpecVersion, signed.Version, signed.Expires, signed.UnrecognizedFields}
	case *metadata.TimestampType:
		want = metadata.TIMESTAMP
		doc.head = head{signed.Type, signed.SpecVersion, signed.Version, signed.Expires, signed.UnrecognizedFields}
	}
	_, offset := doc.expires.Zone()
	switch {
	case doc.kind != want:
		return document[T]{}, malformed("_type is %.40q instead of %q", doc.kind, want)
	case len(doc.spec) < 2 || doc.spec[:2] != "1.":
		return document[T]{}, malformed("spec_version %.40q is not 1.x", doc.spec)
	case doc.version < 1:
		return document[T]{}, malformed("version %d", doc.version)
	case doc.expires.IsZero() || doc.expires.Nanosecond() != 0 || offset != 0:
		return document[T]{}, malformed("expires is not a whole second in UTC")
	}
	return doc, nil
}

// body decodes the part that go-tuf does not know into v, from the tree that
// the signature covers. The keys that v does not name are ignored: the
// contract only grows.
func (h head) body(v any) error {
	raw, err := h.rawBody()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return malformed("%s: %w", bodyField, err)
	}
	return nil
}

func (h head) rawBody() ([]byte, error) {
	tree, ok := h.extra[bodyField].(map[string]any)
	if !ok {
		return nil, malformed("%s is not an object", bodyField)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return nil, malformed("%s: %w", bodyField, err)
	}
	return raw, nil
}

// verify checks that enough keys of the role, as root names them, signed the
// metadata. root must have passed parseRoot. The error is ErrSignature when no
// key of the role signed or a signature is bad, ErrThreshold when good
// signatures are too few.
func verify[T metadata.Roles](root *metadata.Metadata[metadata.RootType], role string, doc document[T]) error {
	err := root.VerifyDelegate(role, doc.meta)
	if err == nil {
		return nil
	}
	if unsigned := (*metadata.ErrUnsignedMetadata)(nil); !errors.As(err, &unsigned) {
		return malformed("%w", err)
	}
	// The library counts but does not tell bad signatures from absent ones.
	r := root.Signed.Roles[role]
	signed := 0
	for _, id := range r.KeyIDs {
		for _, s := range doc.meta.Signatures {
			if s.KeyID == id {
				signed++
			}
		}
	}
	if signed == 0 {
		return fmt.Errorf("%w: no key of the %s role signed", ErrSignature, role)
	}
	if signed < r.Threshold {
		return fmt.Errorf("%w: %d of %d for %s", ErrThreshold, signed, r.Threshold, role)
	}
	return fmt.Errorf("%w: a signature for %s does not verify", ErrSignature, role)
}

// notExpired is ErrExpired when the time of expiry has come.
func (h head) notExpired(now time.Time) error {
	if !now.Before(h.expires) {
		return fmt.Errorf("%w: %s at %s", ErrExpired, h.kind, h.expires.Format(time.RFC3339))
	}
	return nil
}

// sign adds a signature.
func sign[T metadata.Roles](meta *metadata.Metadata[T], key *Key) error {
	signer, err := key.signer()
	if err != nil {
		return err
	}
	if _, err := meta.Sign(signer); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return nil
}

// seal signs metadata with each key and gives the bytes that are to be stored,
// after reading them back as a verifier will.
func seal[T metadata.Roles](meta *metadata.Metadata[T], limit int, keys ...*Key) ([]byte, error) {
	for _, key := range keys {
		if err := sign(meta, key); err != nil {
			return nil, err
		}
	}
	raw, err := meta.ToBytes(false)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	doc, err := parse[T](raw, limit)
	if err != nil {
		return nil, fmt.Errorf("metadata as written: %w", err)
	}
	again, err := doc.meta.ToBytes(false)
	if err != nil || !bytes.Equal(raw, again) {
		return nil, malformed("metadata does not survive a round trip")
	}
	return raw, nil
}

// wholeSeconds is the form of every time that is signed.
func wholeSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

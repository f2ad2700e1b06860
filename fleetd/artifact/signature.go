package artifact

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// The refusals of a URL's signature.
var (
	// ErrUnsigned: the URL has no signature, or one that no key made.
	ErrUnsigned = errors.New("the URL has no valid signature")
	// ErrExpired: the URL was valid, and is not any more.
	ErrExpired = errors.New("the URL has expired")
)

// minURLKey is how many bytes a key must have: as many as its digests.
const minURLKey = sha256.Size

// Signatures make and check expiring URLs of artifacts:
//
//	/artifacts/{sha256}?expires={unix seconds}&signature={base64url}
//
// where the signature is the HMAC-SHA256 of "groundswell/artifact\n", the digest, a
// line end and the text of expires. They keep strangers from loading a CDN with
// requests; devices believe none of it, and go by the digest.
type Signatures struct {
	keys     [][]byte
	lifetime time.Duration
}

// NewSignatures takes the keys (at least 32 bytes each; the first signs, each is
// believed, so that one can be replaced) and how long a URL is valid: from half of
// lifetime to all of it.
func NewSignatures(lifetime time.Duration, keys ...[]byte) (*Signatures, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key")
	}
	for i, key := range keys {
		if len(key) < minURLKey {
			return nil, fmt.Errorf("key %d has %d bytes, at least %d are needed", i, len(key), minURLKey)
		}
	}
	return &Signatures{keys, lifetime}, nil
}

// Sign is the query that makes a URL of the artifact valid. It is the same for half of
// the lifetime, so that a cache that knows no better than to tell URLs apart by their
// queries has few of them.
func (s *Signatures) Sign(digest string, now time.Time) string {
	half := max(1, int64(s.lifetime/2/time.Second))
	expires := strconv.FormatInt((now.Unix()/half+2)*half, 10)
	signature := mac(s.keys[0], digest, expires)
	return url.Values{"expires": {expires}, "signature": {base64.RawURLEncoding.EncodeToString(signature)}}.Encode()
}

// Check is ErrUnsigned, ErrExpired, or for how long the query is still valid.
func (s *Signatures) Check(digest string, query url.Values, now time.Time) (time.Duration, error) {
	expires := query.Get("expires")
	signature, err := base64.RawURLEncoding.DecodeString(query.Get("signature"))
	if err != nil {
		return 0, ErrUnsigned
	}
	signed := false
	for _, key := range s.keys {
		if hmac.Equal(signature, mac(key, digest, expires)) { // in constant time
			signed = true
		}
	}
	if !signed {
		return 0, ErrUnsigned
	}
	until, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		return 0, ErrUnsigned // whoever holds the key signed nonsense
	}
	left := time.Unix(until, 0).Sub(now)
	if left <= 0 {
		return 0, ErrExpired
	}
	return left, nil
}

func mac(key []byte, digest, expires string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte("groundswell/artifact\n" + digest + "\n" + expires)) // never fails
	return h.Sum(nil)
}

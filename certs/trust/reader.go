package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// Reader passes an artifact through while it checks length and SHA-256. What
// it has passed on is verified only when Read has returned io.EOF: until then
// it may be stored, and must not be used.
type Reader struct {
	source io.Reader
	length int64
	sha256 string
	read   int64
	hash   hash.Hash
	err    error
}

// NewReader checks what comes from source. length is in bytes, sha256hex in
// lower-case hex, both from verified metadata.
func NewReader(source io.Reader, length int64, sha256hex string) *Reader {
	return &Reader{source: source, length: length, sha256: sha256hex, hash: sha256.New()}
}

// Prefix reads bytes that are there from an earlier attempt, so that source
// need only give the rest. It is called before the first Read and returns how
// many bytes there were. They are trusted no more than the others.
func (r *Reader) Prefix(have io.Reader) (int64, error) {
	n, err := io.Copy(r.hash, io.LimitReader(have, r.length-r.read+1))
	r.read += n
	if err == nil && r.read > r.length {
		r.err = fmt.Errorf("%w: more than %d bytes", ErrLength, r.length)
		err = r.err
	}
	return n, err
}

// Read returns io.EOF only at the right length with the right digest, ErrLength
// or ErrDigest otherwise. Of a source that is too long no byte past length is
// passed on.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.read == r.length {
		r.err = r.end()
		return 0, r.err
	}
	if rest := r.length - r.read; int64(len(p)) > rest {
		p = p[:rest]
	}
	n, err := r.source.Read(p)
	r.hash.Write(p[:n])
	r.read += int64(n)
	switch {
	case err == io.EOF && r.read < r.length:
		r.err = fmt.Errorf("%w: %d of %d bytes", ErrLength, r.read, r.length)
		return n, r.err
	case err != nil && err != io.EOF:
		return n, err // may be temporary: the source decides
	}
	return n, nil
}

// end is called with all bytes read: the source must be at its end too.
func (r *Reader) end() error {
	var more [1]byte
	for range 100 { // as io.ErrNoProgress does
		n, err := r.source.Read(more[:])
		switch {
		case n > 0:
			return fmt.Errorf("%w: more than %d bytes", ErrLength, r.length)
		case err == io.EOF:
			if got := hex.EncodeToString(r.hash.Sum(nil)); got != r.sha256 {
				return fmt.Errorf("%w: %s instead of %s", ErrDigest, got, r.sha256)
			}
			return io.EOF
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

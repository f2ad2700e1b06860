package publish

import (
	"errors"
	"fmt"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// Signer signs manifests, assignments and commands with a director key.
type Signer struct{ key *trust.Key }

// NewSigner makes a Signer of this replica's director key.
func NewSigner(key *trust.Key) Signer { return Signer{key} }

// SignManifest makes the director's metadata for a cohort.
func (s Signer) SignManifest(m topics.Manifest, expires time.Time) ([]byte, error) {
	return fits(trust.SignManifest(m, expires.UTC().Truncate(time.Second), s.key))
}

// SignAssignment makes the director's metadata for a device.
func (s Signer) SignAssignment(a topics.Assignment, expires time.Time) ([]byte, error) {
	return fits(trust.SignAssignment(a, expires.UTC().Truncate(time.Second), s.key))
}

// SignCommand makes the director's metadata for one request to a device.
func (s Signer) SignCommand(c topics.Command, expires time.Time) ([]byte, error) {
	return fits(trust.SignCommand(c, expires.UTC().Truncate(time.Second), s.key))
}

// fits says in the words of the contract that something is too large.
func fits(signed []byte, err error) ([]byte, error) {
	if errors.Is(err, trust.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", topics.ErrTooLarge, err)
	}
	return signed, err
}

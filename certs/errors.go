package certs

import "errors"

// The refusals of this package.
var (
	// ErrIdentity: the certificate does not carry exactly one well-formed
	// identity of the platform.
	ErrIdentity = errors.New("certificate carries no valid identity")
	// ErrTrustDomain: the identity belongs to another trust domain.
	ErrTrustDomain = errors.New("identity of another trust domain")
	// ErrPeer: a valid identity, but not one that this side accepts.
	ErrPeer = errors.New("peer is not the expected service")
	// ErrChain: the certificate does not chain to the authority, or is not
	// valid now, or is not meant for this use.
	ErrChain = errors.New("certificate does not verify")
	// ErrRevoked: the certificate is on the revocation list.
	ErrRevoked = errors.New("certificate is revoked")
	// ErrRequest: the certificate request is malformed, badly signed, or for
	// a kind of key that is not issued.
	ErrRequest = errors.New("certificate request refused")
	// ErrCRL: the revocation list is malformed or not signed by the authority.
	ErrCRL = errors.New("revocation list refused")
	// ErrCRLRollback: the revocation list is older than the one in use.
	ErrCRLRollback = errors.New("revocation list is older than the one in use")
	// ErrPermissions: a private file can be read by group or world.
	ErrPermissions = errors.New("private file is readable by others")
	// ErrFile: a certificate or key file does not hold what it should.
	ErrFile = errors.New("malformed certificate or key file")
)

package token

import "errors"

// The refusals of this package.
var (
	ErrMalformed   = errors.New("malformed token")
	ErrAlgorithm   = errors.New("algorithm is not allowed")
	ErrIssuer      = errors.New("issuer is not known")
	ErrKey         = errors.New("signing key is not known")
	ErrSignature   = errors.New("signature is not valid")
	ErrAudience    = errors.New("token is for another audience")
	ErrExpired     = errors.New("token has expired")
	ErrNotYet      = errors.New("token is not valid yet")
	ErrClaims      = errors.New("token lacks a claim")
	ErrRole        = errors.New("token gives no role")
	ErrUnavailable = errors.New("keys of the issuer are not available")
	// ErrConfig and ErrKeyFile are not about tokens but about set-up.
	ErrConfig  = errors.New("token configuration")
	ErrKeyFile = errors.New("malformed token key file")
)

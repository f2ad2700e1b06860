package trust

import (
	"errors"
	"fmt"
	"strings"
)

// The refusals of this package.
var (
	ErrMalformed       = errors.New("malformed metadata")
	ErrTooLarge        = errors.New("metadata too large")
	ErrSchema          = errors.New("metadata of a newer schema")
	ErrSignature       = errors.New("no valid signature by the role")
	ErrThreshold       = errors.New("too few signatures")
	ErrExpired         = errors.New("metadata expired")
	ErrVersionRollback = errors.New("version goes back")
	ErrVersionGap      = errors.New("root version is skipped")
	ErrTrustDomain     = errors.New("metadata of another trust domain")
	ErrKind            = errors.New("metadata of another kind")
	ErrName            = errors.New("metadata for another cohort or device")
	ErrPin             = errors.New("metadata is not the one that was named")
	ErrVanished        = errors.New("a released target vanished or changed")
	ErrUnknownTarget   = errors.New("target is unknown to the release role")
	ErrMismatch        = errors.New("director and release role disagree")
	ErrHardware        = errors.New("not made for this hardware")
	ErrSecurityFloor   = errors.New("version is below the security floor")
	ErrLength          = errors.New("length does not match")
	ErrDigest          = errors.New("SHA-256 does not match")
	ErrKey             = errors.New("key refused")
	ErrPassphrase      = errors.New("passphrase missing or wrong")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, clipped{fmt.Errorf(format, args...)})
}

// maxQuoted is how many bytes an error says of what is malformed: parsers quote what they
// were given, and whoever made that up is not to fill logs and reports with it.
const maxQuoted = 256

// clipped is an error whose text is bounded.
type clipped struct{ error }

func (c clipped) Error() string {
	text := c.error.Error()
	if len(text) <= maxQuoted {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuoted], "") + "..."
}

func (c clipped) Unwrap() error { return c.error }

package token

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// ownClaims are the claims of the platform's own tokens.
type ownClaims struct {
	jwt.RegisteredClaims
	Role string `json:"role"`
}

// Issuer signs the platform's own tokens.
type Issuer struct {
	key      *Key
	issuer   string
	audience string
}

// NewIssuer makes an issuer; issuer and audience must be those that the
// Verifier expects.
func NewIssuer(key *Key, issuer, audience string) *Issuer {
	return &Issuer{key: key, issuer: issuer, audience: audience}
}

// Sign makes a token for name, valid from now for lifetime. The times in it
// are whole seconds.
func (i *Issuer) Sign(name string, role Role, now time.Time, lifetime time.Duration) (string, error) {
	if err := checkSubject(name); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if _, err := ParseRole(string(role)); err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	if lifetime < time.Second {
		return "", fmt.Errorf("sign token: %w: a lifetime of %s", ErrClaims, lifetime)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, ownClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    i.issuer,
			Audience:  jwt.ClaimStrings{i.audience},
			Subject:   name,
			ID:        rand.Text(),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		},
		Role: string(role),
	})
	t.Header["kid"] = i.key.ID()
	signed, err := t.SignedString(i.key.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// checkSubject refuses names that would disfigure the audit trail.
func checkSubject(name string) error {
	if name == "" || len(name) > 255 {
		return fmt.Errorf("%w: a subject has 1 to 255 bytes", ErrClaims)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("%w: a subject has no control characters", ErrClaims)
		}
	}
	return nil
}

package token

import (
	"fmt"
	"time"
)

// Role is what a principal may do. A higher role includes the lower ones.
type Role string

// Roles, lowest first.
const (
	Viewer   Role = "viewer"   // reads
	Operator Role = "operator" // and steers devices, cohorts and rollouts
	Admin    Role = "admin"    // and publishes releases, rotates roots, reads the audit trail
)

var ranks = map[Role]int{Viewer: 1, Operator: 2, Admin: 3}

// ParseRole returns ErrRole unless s is a role.
func ParseRole(s string) (Role, error) {
	if ranks[Role(s)] == 0 {
		return "", fmt.Errorf("%w: %.40q", ErrRole, s)
	}
	return Role(s), nil
}

// Includes reports whether r may do what needs the role need. An unknown role
// may nothing, and nothing meets an unknown need.
func (r Role) Includes(need Role) bool { return ranks[need] > 0 && ranks[r] >= ranks[need] }

// Principal is who a verified token speaks for.
type Principal struct {
	Name    string // subject
	Role    Role
	Issuer  string
	TokenID string // "jti"; empty when the token has none
	Expires time.Time
}

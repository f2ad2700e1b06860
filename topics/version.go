package topics

import (
	"github.com/Masterminds/semver/v3"
)

// MaxVersion is the longest version text in bytes.
const MaxVersion = 64

// CheckVersion returns a FieldError for field unless v is a version by
// Semantic Versioning 2.0.0, written in full ("1.2.0", not "v1.2").
func CheckVersion(field, v string) error {
	_, err := parseVersion(field, v)
	return err
}

// CompareVersions orders two versions by precedence (semver 2.0.0 section 11):
// -1, 0 or 1. A text that is no version is ErrInvalid.
func CompareVersions(a, b string) (int, error) {
	va, err := parseVersion("version", a)
	if err != nil {
		return 0, err
	}
	vb, err := parseVersion("version", b)
	if err != nil {
		return 0, err
	}
	return va.Compare(vb), nil
}

// CheckConstraint returns a FieldError for field unless c is a version
// constraint such as "<2.0", ">=1.1.0 <1.3.0" or "~1.2 || =2.0.1". The empty
// constraint admits every version.
func CheckConstraint(field, c string) error {
	_, err := parseConstraint(field, c)
	return err
}

// Satisfies reports whether version v meets constraint c. Pre-releases are
// ordinary versions here: a fleet that runs 2.0.0-rc.1 is below 2.0.0 and has
// to be reachable by "<2.0.0".
func Satisfies(v, c string) (bool, error) {
	version, err := parseVersion("version", v)
	if err != nil {
		return false, err
	}
	constraint, err := parseConstraint("from", c)
	if err != nil || constraint == nil {
		return err == nil, err
	}
	return constraint.Check(version), nil
}

func parseVersion(field, v string) (*semver.Version, error) {
	if len(v) > MaxVersion {
		return nil, invalid(field, "a version has at most %d bytes", MaxVersion)
	}
	version, err := semver.StrictNewVersion(v)
	if err != nil {
		return nil, invalid(field, "%q is not a semantic version such as 1.2.0", clip(v))
	}
	return version, nil
}

func parseConstraint(field, c string) (*semver.Constraints, error) {
	if c == "" {
		return nil, nil
	}
	if len(c) > 4*MaxVersion {
		return nil, invalid(field, "a constraint has at most %d bytes", 4*MaxVersion)
	}
	constraint, err := semver.NewConstraint(c)
	if err != nil {
		return nil, invalid(field, "%q is not a version constraint such as <2.0", clip(c))
	}
	constraint.IncludePrerelease = true
	return constraint, nil
}

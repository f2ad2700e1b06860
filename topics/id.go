package topics

import "regexp"

// idPattern is the grammar of device ids, cohort names, models, hardware
// revisions and every other slug: legal in a topic level, a SPIFFE path
// segment and a Kubernetes label value, and at most 63 bytes.
const idPattern = `[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?`

// MaxIDLength is the longest legal id in bytes.
const MaxIDLength = 63

var idRegexp = regexp.MustCompile(`^` + idPattern + `$`)

// ValidID reports whether s is a legal device id, cohort name or slug.
func ValidID(s string) bool { return len(s) <= MaxIDLength && idRegexp.MatchString(s) }

// CheckID returns a FieldError for field when s is not a legal id.
func CheckID(field, s string) error {
	if !ValidID(s) {
		return invalid(field, "%q is not a legal id: letters, digits, '-' and '_', at most 63, beginning and ending with a letter or digit", clip(s))
	}
	return nil
}

// DefaultComponent is the component that a release replaces unless it names
// another.
const DefaultComponent = "system"

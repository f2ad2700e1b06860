package fleet

import (
	"fmt"
	"strings"

	"groundswell/topics"
)

// VersionKey is a text that sorts bytewise as semantic versions do (semver
// 2.0.0 section 11; build metadata takes no part), so that PostgreSQL can hold
// versions in an index: each number is preceded by its count of digits, a
// release sorts after its pre-releases, a numeric identifier before a worded
// one, and fewer identifiers before more.
func VersionKey(version string) (string, error) {
	if err := topics.CheckVersion("version", version); err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, "+")
	core, pre, hasPre := strings.Cut(version, "-")
	var key strings.Builder
	for _, number := range strings.Split(core, ".") {
		fmt.Fprintf(&key, "%02d%s", len(number), number)
	}
	if !hasPre {
		key.WriteByte('~')
		return key.String(), nil
	}
	key.WriteByte('-')
	for _, id := range strings.Split(pre, ".") {
		if strings.Trim(id, "0123456789") == "" {
			fmt.Fprintf(&key, "0%02d%s!", len(id), id)
		} else {
			fmt.Fprintf(&key, "1%s!", id)
		}
	}
	return key.String(), nil
}

// FullVersion completes a version such as "2" or "2.0" to "2.0.0"; anything
// else comes back as it is.
func FullVersion(version string) string {
	if strings.ContainsAny(version, "-+") {
		return version
	}
	switch strings.Count(version, ".") {
	case 0:
		return version + ".0.0"
	case 1:
		return version + ".0"
	}
	return version
}

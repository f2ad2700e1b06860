package topics

import (
	"fmt"
	"strings"
)

// Filters that fleetd subscribes to.
const (
	AllManifests   = Prefix + "/cohorts/+/manifest"
	AllAssignments = Prefix + "/devices/+/assignment"
	// Uplink matches everything that is stored for the consumer groups:
	// status, heartbeat, log and presence (and, because MQTT filters cannot
	// say otherwise, assignment and command, which are never stored there).
	Uplink = Prefix + "/devices/+/+"
)

// The consumer groups that a broker declares by default.
const (
	GroupRegistry  = "registry"  // fleetd -> PostgreSQL
	GroupTelemetry = "telemetry" // fleetd -> InfluxDB
)

// Share returns the shared-subscription filter of a group [MQTT-4.8.2-1].
func Share(group, filter string) string { return "$share/" + group + "/" + filter }

// ParseShare splits a shared-subscription filter. ok is false for an ordinary
// filter; a malformed one is ErrFilter [MQTT-4.8.2-1], [MQTT-4.8.2-2].
func ParseShare(filter string) (group, inner string, ok bool, err error) {
	rest, shared := strings.CutPrefix(filter, "$share/")
	if !shared {
		if filter == "$share" {
			return "", "", false, fmt.Errorf("%w: %q names no group", ErrFilter, filter)
		}
		return "", filter, false, nil
	}
	group, inner, found := strings.Cut(rest, "/")
	if !found || group == "" || strings.ContainsAny(group, "+#") {
		return "", "", false, fmt.Errorf("%w: %q", ErrFilter, clip(filter))
	}
	if err := CheckFilter(inner); err != nil {
		return "", "", false, err
	}
	return group, inner, true, nil
}

// CheckFilter reports whether filter is legal MQTT: not empty, at most 65,535
// bytes, no U+0000, '+' and '#' alone in their level, '#' last
// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.3-1], [MQTT-4.7.3-2].
func CheckFilter(filter string) error {
	if filter == "" || len(filter) > 65535 || strings.ContainsRune(filter, 0) {
		return fmt.Errorf("%w: %q", ErrFilter, clip(filter))
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "#" && i != len(levels)-1,
			level != "#" && strings.Contains(level, "#"),
			level != "+" && strings.Contains(level, "+"):
			return fmt.Errorf("%w: %q", ErrFilter, clip(filter))
		}
	}
	return nil
}

// Match reports whether a topic name matches a filter (MQTT 5 section 4.7):
// "a/#" matches "a" too, and a leading wildcard does not match "$SYS"
// [MQTT-4.7.2-1].
func Match(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		f, fRest, fMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, tRest, tMore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !fMore && !tMore:
			return true
		case !tMore:
			return fRest == "#"
		case !fMore:
			return false
		}
		filter, topic = fRest, tRest
	}
}

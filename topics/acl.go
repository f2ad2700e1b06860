package topics

import "fmt"

// PrincipalKind says what kind of party a certificate speaks for.
type PrincipalKind string

// The kinds of principals, as they stand in a SPIFFE id.
const (
	PrincipalDevice   PrincipalKind = "device"
	PrincipalService  PrincipalKind = "service"
	PrincipalOperator PrincipalKind = "operator"
)

// ServiceFleetd is the name of the one service that may steer devices.
const ServiceFleetd = "fleetd"

// Principal is who asks: the identity of the client certificate.
type Principal struct {
	Kind PrincipalKind
	Name string
}

// Action is what a principal asks to do.
type Action string

// The actions of a client.
const (
	Publish   Action = "publish"
	Subscribe Action = "subscribe"
)

// Decide is the access decision of the broker. topic is a topic name for
// Publish and a filter for Subscribe. inCohort answers whether the device's
// retained assignment names a cohort; nil means that it names none.
//
// A device publishes its own status, heartbeat and log, and subscribes to its
// own assignment and command and to the manifests of its cohorts, each by its
// exact name. fleetd publishes manifests, assignments and commands, and
// subscribes to anything below Prefix, shared or not. Everything else is
// refused with ErrRefused, which says why.
func Decide(who Principal, action Action, topic string, inCohort func(cohort string) bool) error {
	switch {
	case who.Kind == PrincipalDevice:
		return decideDevice(who.Name, action, topic, inCohort)
	case who.Kind == PrincipalService && who.Name == ServiceFleetd:
		return decideFleetd(action, topic)
	}
	return fmt.Errorf("%w: %s %q has no business on the broker", ErrRefused, clip(string(who.Kind)), clip(who.Name))
}

func decideDevice(device string, action Action, topic string, inCohort func(string) bool) error {
	name, err := Parse(topic)
	if err != nil {
		return fmt.Errorf("%w: device may not %s %q", ErrRefused, action, clip(topic))
	}
	if name.Kind == KindManifest {
		if action == Subscribe && inCohort != nil && inCohort(name.ID) {
			return nil
		}
		return fmt.Errorf("%w: device may not %s the manifest of cohort %q: it is not in its assignment", ErrRefused, action, name.ID)
	}
	if name.ID != device {
		return fmt.Errorf("%w: device may not %s a topic of device %q", ErrRefused, action, name.ID)
	}
	switch name.Kind {
	case KindStatus, KindHeartbeat, KindLog:
		if action == Publish {
			return nil
		}
	case KindAssignment, KindCommand:
		if action == Subscribe {
			return nil
		}
	}
	return fmt.Errorf("%w: device may not %s its %s", ErrRefused, action, name.Kind)
}

func decideFleetd(action Action, topic string) error {
	if action == Publish {
		name, err := Parse(topic)
		if err == nil && !name.Kind.Uplink() {
			return nil
		}
		return fmt.Errorf("%w: fleetd may not publish %q", ErrRefused, clip(topic))
	}
	_, inner, _, err := ParseShare(topic)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if CheckFilter(inner) != nil || !Match(Prefix+"/#", firstLevels(inner)) {
		return fmt.Errorf("%w: fleetd may not subscribe to %q", ErrRefused, clip(topic))
	}
	return nil
}

// firstLevels returns filter when its first levels are Prefix itself, not a
// wildcard that would cover more.
func firstLevels(filter string) string {
	if filter == Prefix || len(filter) > len(Prefix) && filter[:len(Prefix)+1] == Prefix+"/" {
		return filter
	}
	return ""
}

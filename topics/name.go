package topics

import (
	"fmt"
	"strings"
)

// Prefix is the root of every topic. A new incompatible contract would get a
// new one, side by side with this.
const Prefix = "fleet/v1"

// Kind says what a topic carries.
type Kind string

// The topics of the contract.
const (
	KindManifest   Kind = "manifest"   // cohorts/{cohort}/manifest: fleetd, retained, signed
	KindAssignment Kind = "assignment" // devices/{device}/assignment: fleetd, retained, signed
	KindCommand    Kind = "command"    // devices/{device}/command: fleetd, signed, expires
	KindStatus     Kind = "status"     // devices/{device}/status: device, stored before PUBACK
	KindHeartbeat  Kind = "heartbeat"  // devices/{device}/heartbeat: device
	KindLog        Kind = "log"        // devices/{device}/log: device, bounded
	KindPresence   Kind = "presence"   // devices/{device}/presence: broker
	KindRefusal    Kind = "refusal"    // devices/{device}/refusal: broker
)

// DeviceKinds are the kinds below devices/{device}, in documentation order.
var DeviceKinds = []Kind{KindAssignment, KindCommand, KindStatus, KindHeartbeat, KindLog, KindPresence, KindRefusal}

// Uplink reports whether k travels from a device (or, for presence and
// refusal, from the broker about it) to fleetd and is stored before it is acknowledged.
func (k Kind) Uplink() bool {
	switch k {
	case KindStatus, KindHeartbeat, KindLog, KindPresence, KindRefusal:
		return true
	}
	return false
}

// Retained reports whether the newest message of the topic is kept and is only
// ever replaced by one of a higher version (PropVersion).
func (k Kind) Retained() bool { return k == KindManifest || k == KindAssignment }

// Name is a parsed topic.
type Name struct {
	Kind Kind
	// ID is the cohort's name for a manifest, else the device's id.
	ID string
}

// String returns the topic as it goes over the wire.
func (n Name) String() string {
	if n.Kind == KindManifest {
		return Prefix + "/cohorts/" + n.ID + "/manifest"
	}
	return Prefix + "/devices/" + n.ID + "/" + string(n.Kind)
}

// CohortManifest is the topic of a cohort's manifest.
func CohortManifest(cohort string) string { return Name{KindManifest, cohort}.String() }

// DeviceAssignment is the topic of a device's assignment.
func DeviceAssignment(device string) string { return Name{KindAssignment, device}.String() }

// DeviceCommand is the topic of commands to a device.
func DeviceCommand(device string) string { return Name{KindCommand, device}.String() }

// DeviceStatus is the topic of a device's deployment steps.
func DeviceStatus(device string) string { return Name{KindStatus, device}.String() }

// DeviceHeartbeat is the topic of a device's telemetry.
func DeviceHeartbeat(device string) string { return Name{KindHeartbeat, device}.String() }

// DeviceLog is the topic of a device's error logs.
func DeviceLog(device string) string { return Name{KindLog, device}.String() }

// DevicePresence is the topic on which the broker tells of connects and
// disconnects.
func DevicePresence(device string) string { return Name{KindPresence, device}.String() }

// DeviceRefusal is the topic on which the broker tells of what it refused a
// device.
func DeviceRefusal(device string) string { return Name{KindRefusal, device}.String() }

// Parse reads a topic name. Anything that is not a topic of the contract, to
// the letter, is ErrTopic.
func Parse(topic string) (Name, error) {
	rest, ok := strings.CutPrefix(topic, Prefix+"/")
	if !ok {
		return Name{}, fmt.Errorf("%w: %q is not below %s", ErrTopic, clip(topic), Prefix)
	}
	levels := strings.Split(rest, "/")
	if len(levels) != 3 || !ValidID(levels[1]) {
		return Name{}, fmt.Errorf("%w: %q", ErrTopic, clip(topic))
	}
	name := Name{Kind: Kind(levels[2]), ID: levels[1]}
	if name.String() != topic || !knownKind(name.Kind) {
		return Name{}, fmt.Errorf("%w: %q", ErrTopic, clip(topic))
	}
	return name, nil
}

func knownKind(k Kind) bool {
	if k == KindManifest {
		return true
	}
	for _, known := range DeviceKinds {
		if k == known {
			return true
		}
	}
	return false
}

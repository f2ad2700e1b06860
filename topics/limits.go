package topics

import "time"

// Sizes in bytes, enforced before anything is parsed, and by the broker before
// anything is buffered.
const (
	MaxManifest   = 16 << 10 // signed envelope included
	MaxAssignment = 8 << 10
	MaxCommand    = 8 << 10
	MaxStatus     = 8 << 10
	MaxHeartbeat  = 8 << 10
	MaxLog        = 64 << 10
	MaxPresence   = 2 << 10
	MaxRefusal    = 4 << 10
	// MaxPacket is the largest MQTT packet that any party accepts: the
	// largest payload, its topic and its properties.
	MaxPacket = 96 << 10
)

// MaxCohorts is how many cohorts a device may be in.
const MaxCohorts = 16

// MaxWaves is how many waves a rollout may have.
const MaxWaves = 32

// MaxText is the longest free text in a status, in bytes.
const MaxText = 2 << 10

// DefaultFresh is how old the manifest may be, as read on a session, when a
// device activates what it downloaded.
const DefaultFresh = 15 * time.Minute

// MaxPayload is the largest payload of a kind in bytes.
func MaxPayload(k Kind) int {
	switch k {
	case KindManifest:
		return MaxManifest
	case KindAssignment:
		return MaxAssignment
	case KindCommand:
		return MaxCommand
	case KindStatus:
		return MaxStatus
	case KindHeartbeat:
		return MaxHeartbeat
	case KindLog:
		return MaxLog
	case KindPresence:
		return MaxPresence
	case KindRefusal:
		return MaxRefusal
	}
	return 0
}

// MQTT 5 user properties of the contract.
const (
	// PropVersion stands on every manifest and assignment that fleetd
	// publishes: the decimal version of the signed body. The broker replaces
	// a retained message only by one of a higher version. The same version
	// with the same bytes is acknowledged and changes nothing; anything else
	// that is not higher is refused with PUBACK 0x83, which carries this
	// property with the version that is retained.
	PropVersion = "gs-version"
	// PropRegion stands on a manifest, assignment or command that a service
	// publishes for another region than that of its broker. The broker forwards
	// it and acknowledges it when that region has stored it; a region that is not
	// there is answered with 0x97 (again later), one that is not configured with
	// 0x83. Absent, or the broker's own: it is for the own region. Whoever is not
	// a service is refused.
	PropRegion = "gs-region"
	// PropShard, PropSequence and PropStored are stamped by the broker on
	// every uplink message: shard number, sequence in the shard's stream, and
	// time of storing in milliseconds since 1970. Together shard and sequence
	// identify the message for ever, also when it is delivered again.
	PropShard    = "gs-shard"
	PropSequence = "gs-seq"
	PropStored   = "gs-stored"
	// PropModel and PropHardware are stamped by the broker from the device's
	// certificate on every uplink message.
	PropModel    = "gs-model"
	PropHardware = "gs-hardware"
)

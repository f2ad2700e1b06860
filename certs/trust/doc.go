// Package trust decides what a device may run, and is the only place that
// decides it. It is The Update Framework (TUF) used the way Uptane uses it,
// with two repositories that have nothing in common but this package.
//
// The image repository says which bytes are firmware, and for which hardware.
// Its targets role ("release") is a threshold of offline keys that no server
// ever sees; its snapshot and timestamp roles are online keys. The director
// repository says who is to run what and when: its targets role are the keys
// of the fleetd replicas, one each, threshold one, and every manifest,
// assignment and command is signed with one of them. The root keys of both
// are offline and name all others. A device installs only what both agree on
// (Images.Eligible). So whoever steals fleetd can choose among released
// firmware, never run code of their own; whoever steals a broker can delay and
// withhold, no more.
//
// A signature by itself binds no name: a manifest of cohort A verifies just as
// well when it arrives on the topic of cohort B. So what the director signs
// carries a body (key "groundswell" of the signed part) that names trust
// domain, kind, cohort or device, version and time of issue, and every check
// compares them with where the bytes came from. Roots name trust domain and
// repository in the same way.
//
// Verification is a function of (State, bytes, now) to (State, verified body).
// It does no I/O and keeps nothing: the caller stores the new State before it
// acts. When anything is wrong, the error says what by its sentinel and the
// State is the old one. Versions never go back; the same version is accepted
// again only with the same bytes. The one way back is a root that drops keys:
//
//   - a director root without a key that it had forgets the versions of
//     manifests, assignments and commands, and the time floor;
//   - an image root without a snapshot or timestamp key that it had forgets
//     the snapshot and timestamp; without a release key, also the targets.
//
// That is how a fleet recovers after a thief has signed version 2^53 or a time
// in the next century. Adding a key forgets nothing. Roots carry their own
// chain: N+1 is signed by the thresholds of N and of N+1, each step is taken
// one by one, and expiry is looked at only when a root is used to accept
// something else, so a device that slept through five expired roots walks to
// the newest and goes on.
//
// Metadata is parsed by go-tuf and verified over the canonical form of what
// was parsed, so nothing is used that was not signed. Before go-tuf sees any
// bytes, they are bounded in size and depth, and duplicate names, nulls and
// numbers that are not exact integers are refused (scan.go says why). Bytes
// are signed once and stored: reading and writing them again does not give
// the same bytes.
package trust

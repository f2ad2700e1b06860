// Package topics is the wire contract between devices, broker and fleetd, and
// the only place that knows it: topic names, who may use them, what the
// payloads look like, how large they may be, and the arithmetic by which a
// device finds out whether its turn has come.
//
// The parties. A device publishes what it did and how it is (status,
// heartbeat, log) and reads what it is to run (the manifest of each of its
// cohorts, its assignment, its commands). fleetd publishes those and reads
// everything that devices report. The broker publishes presence and what it
// refused, stamps each uplink message with shard, sequence and storing time,
// and enforces Decide.
//
// The contract only grows: agents of the first year work with servers of the
// fifth. So fields are added and never change meaning, unknown fields are
// ignored, and a payload whose Schema is higher than this package knows is
// refused (ErrSchema) rather than half understood. A field that is absent
// means what its comment says. Nothing that is signed holds a float. Times are
// RFC 3339 in UTC and whole seconds.
//
// Decoders bound the size before they parse (ErrTooLarge), and name the field
// that they refuse (FieldError, which is ErrInvalid).
//
// History:
//
//	2026-11  schema 1: manifest, assignment, command, status, heartbeat, log, presence, refusal
//	2026-11  heartbeat: interval_s
//	2026-12  entry: download_windows
//	2026-12  status: peer_faults
package topics

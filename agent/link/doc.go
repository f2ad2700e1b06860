// Package link is the device's session with the broker: what it is told, and
// what it reports.
//
// Downlink. The device subscribes to its assignment and its commands, then to
// the manifests of the cohorts that the assignment names, and leaves those that
// it no longer names. Every message passes package verify; what is refused
// changes nothing, is logged, counted and reported. Refusals that a newer root
// might cure make the device look for one, at most once a minute, and then try
// what was refused again. Retained messages are asked for at every connect, so
// a connection is a check-in: complete once the assignment and the manifest of
// each assigned cohort have come over it. A refusal on one of their topics undoes
// that until the topic has brought a message that verifies; the broker is asked
// for one again, at growing intervals.
//
// Uplink. Reports wait in the journal. They are sent one at a time, each
// removed only when the broker has acknowledged it with success; what the
// broker will never take is dropped and counted, everything else is tried again
// for ever.
//
// Connected devices keep the connection up, unless their battery is low (saving.go).
// Polling devices connect, take what is retained and queued, send what waits, all in
// one round trip (checkin.go), disconnect and sleep; the rest of the agent goes on
// meanwhile, and can ask for a check-in before its time. Who wakes for one check-in
// only is told when all is done (once.go).
package link

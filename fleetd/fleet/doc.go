// Package fleet is the domain of fleetd, pure: no database, no network, no
// clock of its own. It holds the vocabulary (Device, Cohort, Release, Rollout,
// Wave), the table of rollout states, and the decisions: who belongs to a
// cohort, where a wave ends (Threshold), whether the next may open (Gate), what
// halts a rollout (Breaker), what the driver does next (Decide), and what a
// cohort's manifest says (BuildManifest).
//
// The parties. fleetd/api turns requests into specs and calls fleetd/store;
// store keeps everything in PostgreSQL and calls back here for every decision;
// fleetd/rollout reads evidence, asks Decide, and writes what it said.
//
// Refusals are sentinels (ErrNotFound, ErrStale, ErrConflict, ErrTransition,
// ErrFenced) or a *FieldError that points at the field. Unknown input is
// refused, never defaulted; what is absent gets the documented default.
//
// Who counts as a member of a rollout: a device of its cohorts that has said
// which version of the component it runs, one that the release replaces (by
// model, hardware revision and constraint), or that has reported on the
// rollout. A device that was registered in advance and never seen, or that has
// no such component, cannot have been told anything: it is not in the
// denominator of a gate, it is not silent, and it holds up neither a rollout's
// end nor a revert's. From its first report on it counts, and waits for its
// turn in the waves by its position, as everybody does.
//
// A member that was not heard of since long before a wave opened (AbsentAfter)
// is absent from it: no gate is about it, or one dead canary would hold up the
// fleet. It has its position in the wave nevertheless, counts again as soon as
// it is back, and the rollout does not end without it before its deadline. But
// when all who are left are absent, something else is wrong than they are (this
// server was down, its database is a day old, a site has no power): then the
// open wave is the last until one of them is back, or until the deadline. A
// revert does not wait.
//
// The share of a wave is taken of the members at the moment when it opens,
// absent ones too, and it reaches at least the first one that is there.
// Devices that join later are in it by position, so that the share holds when
// a cohort grows a hundredfold, as far as it held before: a wave of one device
// among three is a third of the ring. No wave is left behind on nothing: one
// without members waits for the first of them, and is opened anew for those who
// are there then; the others follow when a device has committed. (Only a policy
// whose first wave is 100 % gives up its canary, in so many words.)
//
// Shares are parts per million (topics.Buckets is the whole), percentages are
// only how people write them.
package fleet

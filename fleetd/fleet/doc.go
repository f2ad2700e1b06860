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
// Shares are parts per million (topics.Buckets is the whole), percentages are
// only how people write them.
package fleet

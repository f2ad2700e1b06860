// Package store keeps the truth in PostgreSQL, and is the only package that
// knows pgx. One file per aggregate, hand-written SQL.
//
// What callers may rely on:
//
//   - Each exported method is one transaction. A change, its audit row, the
//     signed manifests and assignments that follow from it, and the outbox rows
//     that announce those commit together or not at all.
//   - Manifests and assignments are signed in the transaction of the change,
//     under the row lock of their cohort or device, and their version only ever
//     grows. Nobody signs them again: any replica may publish the stored bytes.
//   - A transition is one guarded UPDATE: of two operators who act on the same
//     revision one gets fleet.ErrStale.
//   - Refusals are fleet's sentinels and *fleet.FieldError. Anything else is a
//     failure of the database.
//   - A transaction that PostgreSQL aborted for a deadlock or a serialization
//     failure is tried again; so bodies of transactions have no other effects.
//
// Locks, in the order in which they are taken: the membership lock (advisory;
// shared by what registers or changes devices, exclusive by what creates or
// changes a cohort, so that neither misses the other), then rollout, then delta index, then
// cohorts by name, then devices by id, then their rows in rollouts (who does not wait
// for them may take them alone), then the sums of a rollout by region, then the region
// lock (advisory; shared by what fills the outbox, exclusive by what adds a region), then
// outbox rows.
package store

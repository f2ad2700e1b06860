// Package deltas makes the deltas that rollouts want, in the background: from what devices
// run to what they are to run.
//
// Which ones, PostgreSQL says (fleetd/store, table delta): for each rollout that moves
// devices, or will, the versions that its devices report, the most common first. Replicas
// share the work: each leases a row for as long as it works on it. A lease that is not
// renewed is another's after a minute.
//
// A delta is made by a child process (Child), which is niced and has a number of
// processors and an amount of memory that it cannot exceed: if it crashes, or runs out of
// memory, that costs an attempt, never fleetd. What it makes is stored as artifacts are,
// by its digest. Then the delta index of the target is made, stored, and pinned in the
// manifests, which are signed anew once for many deltas: when no more are to be made, or
// when the first of them has waited for long enough.
//
// One that looks through compression (package expand) is a job of its own, behind all plain
// ones: nobody waits for it, and if it fails, that costs only that one. It is kept and listed
// too if it is much smaller. Only where the plain delta saves nothing it is made at once.
// While the newest rollout's policy says so (fleet.CoderPlain), none is made.
//
// Nobody has to trust a delta: devices check each block that it makes by the index that
// the release role signed.
package deltas

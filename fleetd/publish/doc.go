// Package publish brings what fleetd has signed to the broker, and keeps the
// two the same.
//
// Signer signs with the director key; fleetd/store calls it in the transaction
// of a change, and stores the bytes and an outbox row with the change. From
// there on:
//
//   - The publisher drains the outbox: woken by PostgreSQL within milliseconds,
//     and by a poll. Manifests and commands have a lane of their own, so that a
//     pause does not wait behind ten thousand assignments. It publishes the
//     newest stored bytes of a topic, retained, with their version, and removes
//     the row after a successful PUBACK.
//   - It may crash anywhere. Before PUBACK the row is still there, and another
//     replica (or the next start) publishes the same bytes again, which the
//     broker takes as the same; after PUBACK nothing is lost.
//   - Two replicas may race: the broker replaces a retained message only by a
//     higher version, so an older manifest never replaces a newer one.
//   - When the broker refuses a version as too old, it is ahead of PostgreSQL
//     (which was restored from an older backup): the refusal names what it holds,
//     and the publisher has the content signed anew with a higher version.
//   - Each region has rows, a connection to the broker and pauses of its own, so that
//     one that cannot be reached holds up no other. The broker forwards what is not
//     for its own region.
//   - The reconciler compares what the broker retains, that is, the own region, with
//     PostgreSQL at each connect and from time to time: what the broker lacks or holds
//     older is published again, what it holds newer is superseded.
package publish

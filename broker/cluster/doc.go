// Package cluster is the broker's durable half: an embedded NATS server with
// JetStream, and the few streams that everything with a promise lives in. It is
// the only package that knows NATS.
//
// Streams:
//
//   - uplink-<shard>: what devices report, subject uplink.<shard>.<kind>.<device>.
//     A device always lands in the same shard. Interest retention: a message
//     stays until every declared group has acknowledged it, without an age
//     limit and without a limit of deliveries. When the stream is full, storing
//     fails (ErrFull) and nothing is discarded.
//   - retained: the newest message of each retained topic, subject
//     retained.<kind>.<id>. It is only ever replaced by one of a higher version
//     (compare-and-set on the stream's sequence); see Put.
//   - sessions: whom each client id belongs to, and what its session holds,
//     subject session.<client>; see Claim.
//   - inbox: messages that wait for their subscribers, subject inbox.<topic>; see
//     Log.
//   - open: what is published on any topic behind the lab listener, subject
//     open.<topic>, with a durable consumer for each shared filter; see OpenGroup.
//     When it is full, the oldest go.
//   - kept: the newest retained message of each such topic, subject kept.<topic>;
//     see Keep.
//   - shared: documents that every node is to have, subject shared.<name>; see
//     Share.
//   - leases: that each node lives, subject lease.<node>; see WatchLeases.
//
// Guarantees: Store and Put report success only after JetStream has the
// message, and under Sync "always" only after fsync (see committer). What was reported as
// stored survives kill -9 under any policy; it survives a loss of power under
// "always", and otherwise except for the last Sync interval.
//
// Groups are declared in the configuration and outlive every session: a durable
// pull consumer per group and shard, created before anything can be stored. A
// group that is no longer declared keeps its backlog (deleting the consumer
// would drop it); Open says so in the log.
//
// Alone, the server has no ports: clients are in-process connections. With
// peers (see Peering) each node's server has routes to the others, by mutual TLS,
// and every stream is kept on several of them: a message counts as stored when a
// majority has it (under Sync "always": on its disk), so that one node of three
// may be lost with everything on it. Without a majority nothing is stored, and
// Ready says so. The port for clients, without which no routes would form, is on
// loopback and opens only to a key that this process makes.
//
// With other regions (see Gateways) a second server, without JetStream, has gateways
// to theirs, and carries what Forward has stored there. Each region is a cluster of
// its own: nothing of its streams depends on another, and Ready does not ask for one.
package cluster

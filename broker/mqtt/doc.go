// Package mqtt is the broker's edge: it accepts connections, knows who they are,
// and moves messages between them and the store. It is the only package that
// imports mochi, and it leaves to mochi what carries no promise: decoding and
// encoding packets, and the rules of CONNECT.
//
// Everything else is ours, because mochi's own versions lose messages:
//
//   - Listener and conn: TLS handshake and CONNECT have deadlines; a packet
//     larger than the limit ends the connection before it is buffered; writes
//     go to a bounded buffer that a goroutine drains, so a client that does not
//     read never blocks anybody: it is closed. Over WebSocket it is the same
//     conn, behind the same TLS, with frames around the bytes.
//   - mochi's server is never started: no housekeeping loops over all clients,
//     no $SYS topics. EstablishConnection is called for each CONNECT (greet.go),
//     sees nothing but that packet, answers it, and has forgotten the client before
//     the next one comes. So its take-over, its in-flight map, its subscriptions,
//     its queues and its reading loop are never used.
//   - Whatever comes after CONNECT is read and answered here (reader.go, writer.go),
//     with mochi's decoders and encoders; under a recover, because these panic on
//     some malformed packets.
//   - A connection that has nothing to say waits below TLS (wire.go), in a
//     goroutine that has seen no handshake: its stack and its buffers would be most
//     of what an idle session costs.
//
// There are two planes (plane.go), which know nothing of each other: that of the
// fleet, and that of the lab listener, if there is one, with any topic and without
// names. The code is the same; what the fleet's topics do not need (retained
// messages on any topic, shared subscriptions on any filter, QoS 2 to the client)
// the lab shows to work.
//
// Parties of the fleet: a device (certificate spiffe://<domain>/device/<id>, client id <id>)
// and services (client id "<name>" or "<name>-..."). topics.Decide says who may
// do what; every refusal is logged with audit=true and counted.
//
// Guarantees:
//   - A report is stored before its PUBACK; PUBACKs of a connection leave in the
//     order of the PUBLISHes [MQTT-4.6.0-2]; if storing fails, the client gets a
//     refusal (MQTT 5) or a closed connection (3.1.1), never a success.
//   - A client id has exactly one live connection; the newest wins.
//   - A retained message replaces only one of a lower version.
//   - What a group's member did not acknowledge goes to another.
//   - What a service publishes for another region (topics.PropRegion) is acknowledged
//     when that region has stored it (region.go).
//
// Between nodes a client id belongs to whom the registry says (claim.go): the
// newest connection in the cluster wins, and its session follows it to any node,
// also from one that was killed.
//
// What waits for a session and must not be lost is in the store, and the session
// only holds as much of it as its queue takes (inbox.go). What is to be done if
// the node dies (tell that the device is lost, publish its will) stands in the
// claim (testament.go).
//
// QoS 2 is exactly once within a session (exactly.go), also when it moves to another
// node (handover.go). After a node was killed a message whose handshake had not
// ended comes once more: nobody else knew of it.
//
// Locks, in the order in which they may be held together: Broker.mu, client.mu,
// plane.mu, then one of group.mu and conn.mu (over WebSocket with
// webSocket.mu before it). The acknowledgement queue has a lock of its own
// (acks.mu), under which only conn.mu is taken.
package mqtt

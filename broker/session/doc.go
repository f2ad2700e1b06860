// Package session is what the broker remembers about one client: what it is
// subscribed to, what waits for it, and what was sent to it and not yet
// acknowledged. It is pure: no network, no goroutine, no lock, and the time is
// passed in. Whoever owns a Session serialises the calls.
//
// A message takes this way: Deliver puts it into a bounded queue; Next takes
// it out when the client's Receive Maximum allows, and gives it a packet id;
// Ack ends it, or for QoS 2 first Received and then Complete. What holds:
//
//   - Messages leave in the order in which they came. What was sent and not
//     acknowledged when the connection went is sent again first, in the same
//     order, with the same packet id and DUP set; DUP is set on nothing else
//     [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-4.6.0-1]. Of a QoS 2 message that the
//     client has, only PUBREL is sent again [MQTT-4.3.3-6].
//   - A message of a retained topic carries a Revision. At most the newest one
//     of a topic waits (a newer one takes the place of the older), and an older
//     one never follows a newer.
//   - The queue is bounded in messages and in bytes; a full queue refuses
//     (ErrQueueFull) and the caller says so to whoever published. Retained
//     topics that are subscribed to by name have a place of their own beside
//     the bounds, one each; what filters with wildcards missed is owed.
//   - A message with a Lease is on loan from a consumer group. It never
//     outlives the connection: Detach hands it back. Every lease that went in
//     comes out exactly once, by Ack, by Detach or by Clear.
//   - QoS 0 goes through the same queue, takes no packet id, and is forgotten
//     when the connection goes.
//
// Index finds the sessions whose filters match a topic.
package session

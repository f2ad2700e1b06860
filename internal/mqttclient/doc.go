// Package mqttclient speaks MQTT 5 to the broker, for fleetd, for the agent
// and for load generators. It is the only package that knows the paho library.
//
// Client keeps a connection up for ever, with exponential backoff and full
// jitter. Session (from Dial) is one connection and no more: for devices that
// wake up, report and sleep again, and for measuring.
//
// What callers may rely on:
//   - Publish at QoS 1 returns nil only after a successful PUBACK. Any other
//     outcome is an error, and the library does not retry it later behind the
//     caller's back: after an error the message may or may not have been
//     stored, and whoever wants it delivered publishes it again (receivers are
//     idempotent). The client keeps no outbound state across connections; the
//     server's session (what it queued for us) does survive.
//   - With ManualAck a received message is acknowledged when its Ack is called,
//     in the order of arrival, and never otherwise. What was not acknowledged
//     when the connection went is delivered again.
//   - A packet larger than MaxPacketSize ends the connection before any of it
//     is buffered.
//   - Only QoS 0 and 1: the wire contract needs no more.
package mqttclient

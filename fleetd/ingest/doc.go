// Package ingest takes what devices report from the broker into PostgreSQL
// (the registry) and InfluxDB (telemetry).
//
// Each is a consumer group of its own on the broker's durable uplink, read
// over a connection of its own, and each message is acknowledged when it is
// committed there, never before. So one store that is down never holds up the
// other; the broker's stream is the buffer, and nothing is kept here but what
// the receive window allows (1024 messages per group).
//
// Messages are taken in batches, in order. When a store does not answer, the
// same batch is tried again, with growing pauses, for as long as it takes; the
// messages behind it wait. When the connection goes, what was not acknowledged
// comes again, perhaps to another replica, and both stores take it without
// harm: the registry by high-water marks, InfluxDB because the same point
// overwrites itself.
//
// What can never be stored is taken out of the way: the registry keeps it as a
// dead letter (fleetd/store decides that), points that InfluxDB will never
// take become dead letters too, and all are counted.
//
// points.go says what the points look like. Their series are bounded, whatever
// devices send: a device's id is never a tag, and of the tags that a device
// has a say in, only so many values are let through; the rest is "other".
package ingest

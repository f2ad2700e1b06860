package mqtt

import (
	"time"

	"groundswell/broker/cluster"
	"groundswell/topics"
)

// presence stores that a device came or went. A disconnect carries the number
// of its connect; since a later connection has a higher number, it does not
// matter in which order the two of a take-over are stored. stored gets nil, or
// why it was not stored.
func (b *Broker) presence(c *conn, connected bool, reason string) (stored <-chan error) {
	result := make(chan error, 1)
	if c.identity.Kind != topics.PrincipalDevice {
		result <- nil
		return result
	}
	payload, err := topics.Encode(topics.Presence{
		Schema: topics.Schema, Connected: connected, Reason: reason,
		Model: c.identity.Model, Hardware: c.identity.Hardware,
		Connection: c.number, Node: b.cfg.Node, At: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		b.log.Error("presence cannot be encoded", "device", c.identity.Name, "err", err)
		result <- err
		return result
	}
	u := b.uplinkOf(c, topics.Name{Kind: topics.KindPresence, ID: c.identity.Name}, payload)
	b.store.Store(u, func(s cluster.Stored, err error) {
		if err != nil {
			b.notStored.warn(b.log, "a presence was not stored", "device", c.identity.Name, "connected", connected, "err", err)
		} else {
			b.routeUplink(u, s, "")
		}
		result <- err
	})
	return result
}

// uplinkOf stamps a message with the device's certificate.
func (b *Broker) uplinkOf(c *conn, name topics.Name, payload []byte) cluster.Uplink {
	return cluster.Uplink{Name: name, Payload: payload, Model: c.identity.Model, Hardware: c.identity.Hardware}
}

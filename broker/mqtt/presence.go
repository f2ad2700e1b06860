package mqtt

import (
	"context"
	"time"

	"groundswell/broker/cluster"
	"groundswell/topics"
)

// lostAtOnce is how many lost connections are under way to the store.
const lostAtOnce = 64

// presence stores that a device came or went. A disconnect carries the number
// of its connect; since a later connection has a higher number, it does not
// matter in which order the two of a take-over are stored.
func (b *Broker) presence(c *conn, connected bool, reason string) {
	if c.identity.Kind != topics.PrincipalDevice {
		return
	}
	payload, err := topics.Encode(topics.Presence{
		Schema: topics.Schema, Connected: connected, Reason: reason,
		Model: c.identity.Model, Hardware: c.identity.Hardware,
		Connection: c.number, Node: b.cfg.Node, At: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		b.log.Error("presence cannot be encoded", "device", c.identity.Name, "err", err)
		return
	}
	u := b.uplinkOf(c, topics.Name{Kind: topics.KindPresence, ID: c.identity.Name}, payload)
	if connected {
		c.mark = b.store.Mark(c.identity.Name, payload)
	}
	b.store.Store(u, func(s cluster.Stored, err error) {
		if err != nil {
			b.notStored.warn(b.log, "a presence was not stored", "device", c.identity.Name, "connected", connected, "err", err)
			return
		}
		if !connected && c.mark != nil {
			c.mark.End()
		}
		b.routeUplink(u, s, "")
	})
}

// reportLost stores a disconnect for every device that was connected to this
// node when an earlier run of it died. A device that is back has a connection of a
// higher number, which its lost one does not touch.
func (b *Broker) reportLost(ctx context.Context) {
	lost, underWay := 0, make(chan struct{}, lostAtOnce)
	err := b.store.Leftovers(ctx, func(device string, payload []byte, m *cluster.Mark) bool {
		p, err := topics.DecodePresence(payload)
		if err == nil && p.Node != b.cfg.Node {
			return true // of a node that lives, or reports it at its own start
		}
		if err == nil {
			p.Connected, p.Reason, p.At = false, "lost", time.Now().UTC().Truncate(time.Second)
			payload, err = topics.Encode(p)
		}
		if err != nil {
			b.log.Error("the record of a lost connection cannot be read and is passed over", "device", device, "err", err)
			m.End()
			return true
		}
		select {
		case underWay <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		lost++
		u := cluster.Uplink{
			Name: topics.Name{Kind: topics.KindPresence, ID: device}, Payload: payload, Model: p.Model, Hardware: p.Hardware,
		}
		b.store.Store(u, func(s cluster.Stored, err error) {
			<-underWay
			if err != nil { // its record stays, for the next start
				b.notStored.warn(b.log, "a presence was not stored", "device", device, "connected", false, "err", err)
				return
			}
			m.End()
			b.routeUplink(u, s, "")
		})
		return true
	})
	if err != nil && ctx.Err() == nil {
		b.log.Error("not every device that a killed broker left connected was reported; the next start goes on", "err", err)
	}
	if lost > 0 {
		b.log.Info("connections that ended without a word were reported", "devices", lost)
	}
}

// uplinkOf stamps a message with the device's certificate.
func (b *Broker) uplinkOf(c *conn, name topics.Name, payload []byte) cluster.Uplink {
	return cluster.Uplink{Name: name, Payload: payload, Model: c.identity.Model, Hardware: c.identity.Hardware}
}

package mqtt

import "github.com/mochi-mqtt/server/v2/packets"

// maxAliases is how many topic aliases there may be on a connection, in each
// direction.
const maxAliases = 16

// aliases are the short names of topics on one connection.
type aliases struct {
	in  map[uint16]string // the client's; of the connection's own goroutine
	out map[string]uint16 // ours; guarded by client.mu
	max uint16            // how many the client takes
}

// resolveAlias puts the topic into a PUBLISH that has only an alias, and remembers
// the alias of one that has both (MQTT 5 section 3.3.2.3.4). The packet is valid.
func (c *conn) resolveAlias(pk *packets.Packet) packets.Code {
	alias := pk.Properties.TopicAlias
	if alias == 0 {
		return packets.CodeSuccess
	}
	if pk.TopicName == "" {
		topic, known := c.aliases.in[alias]
		if !known {
			return packets.ErrProtocolViolation
		}
		pk.TopicName = topic
		return packets.CodeSuccess
	}
	if c.aliases.in == nil {
		c.aliases.in = map[uint16]string{}
	}
	c.aliases.in[alias] = pk.TopicName
	return packets.CodeSuccess
}

// useAlias shortens a PUBLISH, if the client takes aliases and there is one left for
// its topic. fresh says that the client has not heard of this one.
func (c *conn) useAlias(pk *packets.Packet) (fresh bool) {
	a := &c.aliases
	alias, known := a.out[pk.TopicName]
	switch {
	case known:
		pk.TopicName = ""
	case len(a.out) >= int(a.max):
		return false
	default:
		if a.out == nil {
			a.out = map[string]uint16{}
		}
		alias = uint16(len(a.out) + 1)
		a.out[pk.TopicName] = alias
	}
	pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = alias, true
	return !known
}

// forgetAlias takes back the alias that was used last.
func (c *conn) forgetAlias(topic string) { delete(c.aliases.out, topic) }

package mqtt

import (
	"time"

	"groundswell/broker/session"

	"github.com/mochi-mqtt/server/v2/packets"
)

// messageOf is what a PUBLISH packet says, with all that its subscribers are to
// get of it [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17],
// [MQTT-3.3.2-20].
func messageOf(pk *packets.Packet, now time.Time) session.Message {
	m := session.Message{
		Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain,
		Properties: userOf(&pk.Properties), Content: contentOf(&pk.Properties),
	}
	if n := pk.Properties.MessageExpiryInterval; n > 0 {
		m.Expires = now.Add(time.Duration(n) * time.Second)
	}
	return m
}

func userOf(p *packets.Properties) (user []session.Property) {
	for _, u := range p.User {
		user = append(user, session.Property{Key: u.Key, Value: u.Val})
	}
	return user
}

func contentOf(p *packets.Properties) *session.Content {
	if !p.PayloadFormatFlag && p.ContentType == "" && p.ResponseTopic == "" && len(p.CorrelationData) == 0 {
		return nil
	}
	return &session.Content{
		Format: p.PayloadFormat, HasFormat: p.PayloadFormatFlag, Type: p.ContentType,
		ResponseTopic: p.ResponseTopic, Correlation: p.CorrelationData,
	}
}

// publishPacket translates a message for mochi's encoder.
func publishPacket(p session.Packet) packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: p.QoS, Dup: p.Dup, Retain: p.Retain},
		PacketID:    p.ID, TopicName: p.Topic, Payload: p.Payload,
	}
	pk.Properties.User = userProperties(p.Properties)
	pk.Properties.SubscriptionIdentifier = p.Identifiers
	if c := p.Content; c != nil {
		pk.Properties.PayloadFormat, pk.Properties.PayloadFormatFlag = c.Format, c.HasFormat
		pk.Properties.ContentType, pk.Properties.ResponseTopic = c.Type, c.ResponseTopic
		pk.Properties.CorrelationData = c.Correlation
	}
	if !p.Expires.IsZero() { // [MQTT-3.3.2-6]
		left := (time.Until(p.Expires) + time.Second - 1) / time.Second
		pk.Properties.MessageExpiryInterval = uint32(max(left, 1))
	}
	return pk
}

// pubrel is PUBREL for a message that the client has.
func pubrel(id uint16) packets.Packet {
	return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrel, Qos: 1}, PacketID: id}
}

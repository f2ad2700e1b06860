package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Answers to a publish. MQTT 5 allows only some codes in PUBACK; a client takes
// 0x97 as "again later" and the others as "never like this".
var (
	codeStored     = packets.CodeSuccess
	codeNobody     = packets.CodeNoMatchingSubscribers
	codeRefused    = packets.ErrNotAuthorized
	codeStale      = packets.Code{Code: 0x83, Reason: "stale"}
	codeImpossible = packets.ErrImplementationSpecificError
	codeFull       = packets.ErrQuotaExceeded
	codePayload    = packets.ErrPayloadFormatInvalid
	codeNotNow     = packets.Code{Code: 0x83, Reason: "the store does not answer"} // in SUBACK
	codeBusy       = packets.ErrServerBusy                                         // in DISCONNECT, where "unavailable" is not allowed
)

// publish handles a PUBLISH packet. The code it returns, if 0x80 or above, ends
// the connection; every lesser refusal was answered.
func (b *Broker) publish(c *conn, pk *packets.Packet) packets.Code {
	if code := pk.PublishValidate(maxAliases); code.Code >= packets.ErrUnspecifiedError.Code {
		return code
	}
	if code := c.resolveAlias(pk); code.Code >= packets.ErrUnspecifiedError.Code {
		return code
	}
	answer := func(packets.Code, string, ...session.Property) {}
	if qos := pk.FixedHeader.Qos; qos > 0 {
		p, err := c.acks.expect(pk.PacketID, qos)
		if errors.Is(err, errReceiveMaximum) {
			return packets.ErrReceiveMaximum // [MQTT-3.3.4-9]
		}
		if err != nil {
			return packets.CodeSuccess // the connection is ending
		}
		answer = func(code packets.Code, text string, user ...session.Property) { c.acks.answer(p, code, text, user...) }
		if qos == 2 {
			id, once := pk.PacketID, answer
			before, token := b.receive(c, id, once)
			switch before {
			case session.Handled:
				once(codeStored, "") // [MQTT-4.3.3-10]
				return packets.CodeSuccess
			case session.Pending:
				return packets.CodeSuccess
			}
			answer = func(code packets.Code, text string, user ...session.Property) {
				waiting := b.settleReceipt(c.client, id, token, code)
				once(code, text, user...)
				for _, again := range waiting {
					again(code, text, user...)
				}
			}
		}
	}
	if c.client.plane.open {
		b.publishOpen(c, pk, answer)
		return packets.CodeSuccess
	}
	name, err := b.mayPublish(c, pk)
	region := ""
	if err == nil {
		if region, err = b.regionOf(pk); err != nil {
			b.audit(c, topics.RefusedPublish, "malformed", pk.TopicName, err)
			answer(codeImpossible, err.Error())
			return packets.CodeSuccess
		}
	}
	switch {
	case errors.Is(err, topics.ErrTooLarge):
		b.audit(c, topics.RefusedPublish, "payload-size", pk.TopicName, err)
		answer(codePayload, err.Error())
	case err != nil:
		b.audit(c, topics.RefusedPublish, "not-authorized", pk.TopicName, err)
		answer(codeRefused, "")
	case name.Kind.Uplink():
		b.publishUplink(c, name, pk, answer)
	case name.Kind.Retained():
		b.publishRetained(c, region, name, pk, answer)
	default:
		b.publishCommand(c, region, name, pk, answer)
	}
	return packets.CodeSuccess
}

type answerFunc func(code packets.Code, text string, user ...session.Property)

// mayPublish is the access decision, and the limit of the kind.
func (b *Broker) mayPublish(c *conn, pk *packets.Packet) (topics.Name, error) {
	if err := topics.Decide(c.identity.Principal(), topics.Publish, pk.TopicName, nil); err != nil {
		return topics.Name{}, err
	}
	if c.identity.Kind != topics.PrincipalService && slices.ContainsFunc(pk.Properties.User, func(p packets.UserProperty) bool { return p.Key == topics.PropRegion }) {
		return topics.Name{}, errRegion
	}
	name, err := topics.Parse(pk.TopicName)
	if err != nil {
		return topics.Name{}, err
	}
	if limit := topics.MaxPayload(name.Kind); len(pk.Payload) > limit {
		return topics.Name{}, fmt.Errorf("%w: %d bytes, at most %d", topics.ErrTooLarge, len(pk.Payload), limit)
	}
	return name, nil
}

// publishUplink stores what a device reports. Payloads are not looked at: what
// fleetd cannot use, fleetd sets aside.
func (b *Broker) publishUplink(c *conn, name topics.Name, pk *packets.Packet, answer answerFunc) {
	u := b.uplinkOf(c, name, pk.Payload)
	origin := c.client.id
	b.store.Store(u, func(s cluster.Stored, err error) {
		if err != nil {
			b.storeFailed(c, u.Name.String(), err, answer)
			return
		}
		answer(codeStored, "")
		b.routeUplink(u, s, origin)
	})
}

// publishRetained replaces a retained message, if its version is higher, here or in
// another region.
func (b *Broker) publishRetained(c *conn, region string, name topics.Name, pk *packets.Packet, answer answerFunc) {
	version, err := retainedVersion(pk)
	if err == nil && name.Kind == topics.KindAssignment && len(pk.Payload) > 0 {
		if _, err = assignedCohorts(pk.Payload); err != nil {
			b.metrics.badPayload.Inc()
		}
	}
	if err != nil {
		b.audit(c, topics.RefusedPublish, "malformed", pk.TopicName, err)
		answer(codeImpossible, err.Error())
		return
	}
	r := cluster.Retained{Name: name, Payload: pk.Payload, Version: version, Origin: c.client.id}
	b.put(region, r, func(err error) {
		if err != nil {
			b.notPublished(c, pk.TopicName, err, answer)
			return
		}
		answer(codeStored, "") // live subscribers get it by way of Watch
	})
}

// retainedVersion reads topics.PropVersion.
func retainedVersion(pk *packets.Packet) (int64, error) {
	if !pk.FixedHeader.Retain {
		return 0, errors.New("a message on this topic must have the retain flag")
	}
	text, count := "", 0
	for _, p := range pk.Properties.User {
		if p.Key == topics.PropVersion {
			text = p.Val
			count++
		}
	}
	if count != 1 {
		return 0, fmt.Errorf("user property %s stands %d times instead of once", topics.PropVersion, count)
	}
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || version < 1 || strconv.FormatInt(version, 10) != text {
		return 0, fmt.Errorf("user property %s: %q is not a positive decimal number", topics.PropVersion, clip(text))
	}
	return version, nil
}

// publishCommand stores a command for its device. It waits in the inbox until
// the device has acknowledged it, or it expires.
func (b *Broker) publishCommand(c *conn, region string, name topics.Name, pk *packets.Packet, answer answerFunc) {
	m := messageOf(pk, time.Now())
	m.QoS, m.Retain, m.Properties = max(m.QoS, 1), false, withoutRegion(m.Properties)
	stored, err := b.toStore(m, c.client.id)
	if err != nil {
		b.storeFailed(c, pk.TopicName, err, answer)
		return
	}
	if region != "" {
		b.forwardCommand(c, region, name, stored, answer)
		return
	}
	code := codeStored
	if !b.awaited(name) {
		code = codeNobody
	}
	b.fleet.log.Append(stored, func(_ uint64, err error) {
		if err != nil {
			b.storeFailed(c, pk.TopicName, err, answer)
			return
		}
		answer(code, "") // the device gets it by way of Follow
	})
}

// awaited reports whether somebody is subscribed to a device's topic: somebody
// on this node, or the device's session, wherever it is. When that cannot be
// known, the answer is yes.
func (b *Broker) awaited(name topics.Name) bool {
	if len(b.fleet.match(session.Message{Topic: name.String()})) > 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	claim, err := b.store.Lookup(ctx, name.ID) // a device's client id is its id
	if err != nil {
		return !errors.Is(err, cluster.ErrNotFound)
	}
	saved, err := savedIn(claim)
	return err != nil || slices.ContainsFunc(saved.Subscriptions, func(s session.Subscription) bool { return s.Filter == name.String() })
}

// storeFailed answers a publish that was not stored: again later, whatever the
// reason. (A code of its own for a store that is down would have to be 0x83,
// which is how stale manifests are refused.)
func (b *Broker) storeFailed(c *conn, topic string, err error, answer answerFunc) {
	b.notStored.warn(b.log, "a message was not stored", "topic", clip(topic), "client", c.client.id, "err", err)
	text := "the store is unavailable, try again later"
	if errors.Is(err, cluster.ErrFull) || errors.Is(err, cluster.ErrBusy) {
		text = "the store is full or busy, try again later"
	}
	answer(codeFull, text)
}

package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// will is what a device wants to be reported when it vanishes. It takes the
// way of every report: same access rules, same store. mochi's own wills bypass
// the access rules (B09).
type will struct {
	uplink cluster.Uplink
	open   *openWill // of a client of open topics, and then uplink is zero
	delay  time.Duration
	due    time.Time // once the connection has ended
}

// openWill is a will to any topic.
type openWill struct {
	session.Message
	lifetime time.Duration // its Message Expiry Interval; 0: none
	origin   string        // the client
}

var errWill = errors.New("will refused")

// willOf reads the will of a CONNECT packet; nil if there is none.
func (b *Broker) willOf(c *conn, pk *packets.Packet) (*will, error) {
	if !pk.Connect.WillFlag {
		return nil, nil
	}
	if c.lab {
		return openWillOf(c, pk)
	}
	if c.identity.Kind != topics.PrincipalDevice {
		return nil, fmt.Errorf("%w: only devices have one", errWill)
	}
	if err := topics.Decide(c.identity.Principal(), topics.Publish, pk.Connect.WillTopic, nil); err != nil {
		return nil, err
	}
	name, err := topics.Parse(pk.Connect.WillTopic)
	if err != nil {
		return nil, err
	}
	if len(pk.Connect.WillPayload) > topics.MaxPayload(name.Kind) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", errWill, len(pk.Connect.WillPayload), topics.MaxPayload(name.Kind))
	}
	return &will{
		uplink: b.uplinkOf(c, name, pk.Connect.WillPayload),
		delay:  time.Duration(pk.Connect.WillProperties.WillDelayInterval) * time.Second,
	}, nil
}

// openWillOf reads the will of a client of open topics.
func openWillOf(c *conn, pk *packets.Packet) (*will, error) {
	topic, p := pk.Connect.WillTopic, &pk.Connect.WillProperties
	if topic == "" || strings.ContainsAny(topic, "+#\x00") {
		return nil, fmt.Errorf("%w: %q is not a topic", errWill, clip(topic))
	}
	if err := cluster.CheckTopic(topic); err != nil {
		return nil, fmt.Errorf("%w: %w", errWill, err)
	}
	if len(topic)+len(pk.Connect.WillPayload) > maxOpenWill {
		return nil, fmt.Errorf("%w: more than %d bytes", errWill, maxOpenWill)
	}
	return &will{
		open: &openWill{
			Message: session.Message{
				Topic: topic, Payload: pk.Connect.WillPayload, QoS: pk.Connect.WillQos, Retain: pk.Connect.WillRetain,
				Properties: userOf(p), Content: contentOf(p),
			},
			lifetime: time.Duration(p.MessageExpiryInterval) * time.Second, origin: c.clientID,
		},
		delay: time.Duration(p.WillDelayInterval) * time.Second,
	}, nil
}

// maxOpenWill bounds a will to an open topic: it stands in the client's claim.
const maxOpenWill = 64 << 10

// cancelWill is what an orderly DISCONNECT does.
func (b *Broker) cancelWill(c *conn) {
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn == c {
		cl.will = nil
	}
}

// fireWill publishes the delayed will of an offline client when it is due.
func (b *Broker) fireWill(cl *client, now time.Time) {
	cl.mu.Lock()
	w, claim := cl.will, cl.left
	if w == nil || cl.conn != nil || now.Before(w.due) {
		cl.mu.Unlock()
		return
	}
	cl.will = nil
	cl.mu.Unlock()
	if b.publishWill(w) != nil || claim.Revision == 0 {
		return
	}
	claim.Testament = nil // so that nobody publishes it again when this node dies
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	revision, err := b.store.Write(ctx, cl.id, claim)
	if err != nil {
		if !errors.Is(err, cluster.ErrTaken) {
			b.notStored.warn(b.log, "that a will was published was not stored", "client", cl.id, "err", err)
		}
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.left.Revision == claim.Revision {
		claim.Revision = revision
		cl.left = claim
	}
}

// settleWill publishes the will of a connection that another has replaced, or
// whose session has ended; a delayed will is cancelled when the session goes on
// [MQTT-3.1.3-9].
func (b *Broker) settleWill(w *will, sessionEnded bool) {
	if w != nil && (w.delay == 0 || sessionEnded) {
		b.wg.Go(func() { _ = b.publishWill(w) }) // nobody waits for an answer
	}
}

// publishWill stores a will and waits for it.
func (b *Broker) publishWill(w *will) error {
	if w.open != nil {
		return b.publishOpenWill(w.open)
	}
	err := b.storeAndWait(w.uplink)
	if err != nil {
		b.notStored.warn(b.log, "a will was not stored", "device", w.uplink.Name.ID, "err", err)
	}
	return err
}

func (b *Broker) publishOpenWill(w *openWill) error {
	if b.lab == nil {
		b.log.Error("a will to an open topic is passed over: there are none any more", "client", clip(w.origin))
		return nil
	}
	m := w.Message
	if w.lifetime > 0 {
		m.Expires = time.Now().Add(w.lifetime)
	}
	result := make(chan error, 1)
	b.storeOpen(m, w.origin, func(err error) { result <- err })
	err := <-result
	if err != nil {
		b.notStored.warn(b.log, "a will was not stored", "client", clip(w.origin), "err", err)
	}
	return err
}

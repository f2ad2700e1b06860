package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Open topics are those of the lab listener: any legal topic, and no access rules. A
// message goes into the log of its plane; if it is to be retained it is then kept
// under its place in the log, so that of two publishers the same one wins there and
// with those who are subscribed.

// maxOpenGroups is how many shared subscriptions of open topics a node serves.
const maxOpenGroups = 1024

// quietWindow is how many QoS 0 messages of one connection may be on their way to
// the store. Nobody acknowledges them; the connection is read no further meanwhile.
const quietWindow = 256

// publishOpen stores a message of any topic.
func (b *Broker) publishOpen(c *conn, pk *packets.Packet, answer answerFunc) {
	if err := cluster.CheckTopic(pk.TopicName); err != nil {
		answer(packets.ErrTopicNameInvalid, err.Error())
		return
	}
	done := func(error) {}
	if pk.FixedHeader.Qos == 0 {
		if c.quiet == nil {
			c.quiet = make(chan struct{}, quietWindow)
		}
		select {
		case c.quiet <- struct{}{}:
			done = func(error) { <-c.quiet }
		case <-c.done:
			return
		}
	}
	m := messageOf(pk, time.Now())
	b.storeOpen(m, c.client.id, func(err error) {
		done(err)
		if err != nil {
			b.storeFailed(c, m.Topic, err, answer)
			return
		}
		answer(codeStored, "")
	})
}

// storeOpen stores a message of an open topic; its subscribers get it by way of
// follow.
func (b *Broker) storeOpen(m session.Message, origin string, done func(error)) {
	stored, err := b.toStore(m, origin)
	if err != nil {
		done(err)
		return
	}
	if m.Retain {
		kept, answer := b.lab.beginKeeping(), done
		done = func(err error) {
			kept()
			answer(err)
		}
	}
	b.lab.log.Append(stored, func(sequence uint64, err error) {
		if err != nil || !m.Retain {
			done(err)
			return
		}
		stored.Sequence, stored.Keep = sequence, 0
		if !m.Expires.IsZero() {
			stored.Keep = max(time.Until(m.Expires), time.Second)
		}
		b.store.Keep(stored, done)
	})
}

// subscribeOpen registers any legal filter.
func (b *Broker) subscribeOpen(c *conn, sub session.Subscription, restored bool, refuse func(packets.Code, string, error) (grant, packets.Code, string)) (grant, packets.Code, string) {
	if sub.Filter == b.cfg.Lab.RefuseFilter {
		// The one failure that both versions know, and suites for both look for.
		return refuse(packets.ErrUnspecifiedError, "lab", errors.New("lab.refuse_filter"))
	}
	_, inner, shared, err := topics.ParseShare(sub.Filter)
	if err != nil {
		return refuse(packets.ErrTopicFilterInvalid, "filter", err)
	}
	if err := cluster.CheckTopic(inner); err != nil {
		return refuse(packets.ErrTopicFilterInvalid, "filter", err)
	}
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	if shared {
		release, err := b.ensureOpenGroup(ctx, sub.Filter)
		if errors.Is(err, errTooManyGroups) {
			return refuse(packets.ErrQuotaExceeded, "quota", err)
		} else if err != nil {
			return b.notSubscribed(c, sub, err)
		}
		defer release()
	}
	var last uint64
	if !restored { // else it is known since when
		if last, err = c.client.plane.log.Last(ctx); err != nil {
			return b.notSubscribed(c, sub, err)
		}
	}
	g, err := b.register(c, sub, last, restored)
	if err != nil {
		return refuse(packets.ErrQuotaExceeded, "quota", errTooManySubscriptions)
	}
	return g, packets.Code{Code: sub.QoS}, ""
}

// notSubscribed refuses a subscription because of the store.
func (b *Broker) notSubscribed(c *conn, sub session.Subscription, err error) (grant, packets.Code, string) {
	b.notStored.warn(b.log, "a subscription cannot be taken", "client", c.client.id, "filter", clip(sub.Filter), "err", err)
	return grant{}, codeNotNow, "the store is unavailable, try again later"
}

// sendKept sends what is retained for a new subscription to open topics.
func (b *Broker) sendKept(c *conn, g grant) {
	if isShared(g.Filter) { // [MQTT-4.8.2]
		return
	}
	b.wg.Go(func() {
		ctx, cancel := context.WithCancel(b.life)
		defer cancel()
		// What was stored before the subscription and is not kept yet comes neither as
		// a retained message nor by itself.
		c.client.plane.awaitKept(ctx)
		err := b.store.Kept(ctx, g.Filter, g.asOf, func(stored cluster.Message) bool {
			if !b.waitForRoom(c) {
				return false
			}
			m, err := fromStore(stored)
			if err != nil {
				b.log.Error("a retained message cannot be read and is passed over", "topic", clip(stored.Topic), "err", err)
				return true
			}
			if !m.Expires.IsZero() && !time.Now().Before(m.Expires) {
				return true
			}
			m.QoS, m.Sequence = min(m.QoS, g.QoS), 0
			if g.Identifier > 0 {
				m.Identifiers = []int{g.Identifier}
			}
			c.client.mu.Lock()
			defer c.client.mu.Unlock()
			if _, ok := c.client.session.Subscription(g.Filter); ok {
				_ = b.queue(c.client, m) // counted; it had room a moment ago
			}
			return true
		})
		if err != nil && !c.isClosed() {
			b.log.Error("cannot read the retained messages, the subscriber has to come again", "filter", clip(g.Filter), "client", c.client.id, "err", err)
			c.disconnect(packets.ErrServerBusy, "error")
		}
	})
}

var errTooManyGroups = fmt.Errorf("there are %d shared subscriptions on this node already", maxOpenGroups)

// ensureOpenGroup makes sure that a shared subscription is served here, at least until
// release is called.
func (b *Broker) ensureOpenGroup(ctx context.Context, filter string) (release func(), err error) {
	p := b.lab
	p.groupsMu.Lock()
	full := p.groups[filter] == nil && len(p.groups) >= maxOpenGroups
	p.groupsMu.Unlock()
	if full {
		return nil, errTooManyGroups
	}
	stored, err := b.store.OpenGroup(ctx, filter)
	if err != nil {
		return nil, err
	}
	p.groupsMu.Lock()
	defer p.groupsMu.Unlock()
	g := p.groups[filter]
	if g == nil {
		g = newGroup(b, stored, filter)
		p.groups[filter] = g
		var life context.Context
		life, g.stop = context.WithCancel(b.life)
		g.run(life, b.loops)
	}
	g.joining++
	return func() {
		p.groupsMu.Lock()
		g.joining--
		p.groupsMu.Unlock()
		p.dropIdle(g)
	}, nil
}

// dropIdle stops serving a shared subscription of which this node has no member. The
// store forgets it when no node has had one for a while.
func (p *plane) dropIdle(g *group) {
	if g.stop == nil {
		return // declared
	}
	p.groupsMu.Lock()
	defer p.groupsMu.Unlock()
	if g.joining == 0 && g.empty() && p.groups[g.filter] == g {
		delete(p.groups, g.filter)
		g.stop()
	}
}

// openGroup is a shared subscription that is served here.
func (b *Broker) openGroup(filter string) *group {
	b.lab.groupsMu.Lock()
	defer b.lab.groupsMu.Unlock()
	return b.lab.groups[filter]
}

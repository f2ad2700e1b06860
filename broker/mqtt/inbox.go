package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"
)

// A message that must not be lost and is neither a report nor retained goes into
// the inbox before it is acknowledged: one replicated stream that every node
// follows. Sessions take from it in one of two ways:
//
//   - live: what the node follows is put into the session's queue at once;
//   - behind: it is not, because the queue is full, or the session came from
//     another node; a reader then brings what is in the stream, no faster than
//     the client takes it, until nothing is left.
//
// So a session's memory is bounded, and what waits for it is not lost with its
// node: the cursor, up to which it has everything, is in its claim.

// inboxReaders is how many sessions of a node read the stream at once.
const inboxReaders = 64

// attributes is what the inbox keeps of a message beside topic and payload.
type attributes struct {
	QoS     byte               `json:"qos"`
	User    []session.Property `json:"user,omitempty"`
	Expires time.Time          `json:"expires,omitzero"` // Message Expiry Interval; zero: none was given
}

// appendInbox stores a message for its subscribers, whoever they are.
func (b *Broker) appendInbox(m session.Message, origin string, done func(error)) {
	a, err := json.Marshal(attributes{QoS: m.QoS, User: m.Properties, Expires: m.Expires})
	if err != nil {
		done(err)
		return
	}
	// No session that exists now outlives this.
	keep := b.cfg.Limits.MaxSessionExpiry
	if !m.Expires.IsZero() {
		keep = min(keep, time.Until(m.Expires))
	}
	b.store.Append(cluster.Message{Topic: m.Topic, Payload: m.Payload, Attributes: a, Origin: origin, Keep: keep}, done)
}

func inboxMessage(stored cluster.Message) (session.Message, error) {
	var a attributes
	if err := json.Unmarshal(stored.Attributes, &a); err != nil {
		return session.Message{}, err
	}
	return session.Message{
		Topic: stored.Topic, Payload: stored.Payload, QoS: a.QoS, Properties: a.User, Expires: a.Expires, Sequence: stored.Sequence,
	}, nil
}

// arrived is called for every message of the inbox that was stored on any node,
// in order.
func (b *Broker) arrived(stored cluster.Message) {
	m, err := inboxMessage(stored)
	if err != nil {
		b.log.Error("a message of the inbox cannot be read and is passed over", "topic", clip(stored.Topic), "err", err)
		return
	}
	b.each(m, stored.Origin, func(cl *client, m session.Message) {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		switch {
		case cl.ended || m.Sequence <= cl.read: // read before it was followed
		case cl.behind:
			cl.missed = true
		case b.queue(cl, m) == nil:
			cl.read = m.Sequence
		case m.QoS > 0:
			cl.behind = true // it and what follows stay in the stream
			b.readInbox(cl)
		}
	})
	b.inboxAt.Store(stored.Sequence)
}

// readInbox makes sure that somebody brings what a session that is behind has
// missed. The caller holds cl.mu.
func (b *Broker) readInbox(cl *client) {
	c := cl.conn
	if c == nil || !cl.begun || !cl.behind || cl.reader == c {
		return
	}
	cl.reader = c
	b.wg.Go(func() {
		select {
		case b.readers <- struct{}{}:
		case <-c.done:
			return
		}
		defer func() { <-b.readers }()
		b.read(c)
	})
}

// read brings a session what it has missed, until nothing is left or c is not
// its connection any more.
func (b *Broker) read(c *conn) {
	cl := c.client
	for b.waitForRoom(c) {
		cl.mu.Lock()
		if cl.conn != c {
			cl.mu.Unlock()
			return
		}
		from := cl.read + 1
		cl.missed = false
		filters := inboxFilters(cl.session)
		cl.mu.Unlock()
		ctx, cancel := context.WithTimeout(b.life, storeWait)
		stored, err := b.store.Next(ctx, filters, from)
		cancel()
		switch {
		case errors.Is(err, cluster.ErrNotFound):
			cl.mu.Lock()
			if !cl.missed && cl.conn == c {
				// All that is stored was read, and what is stored from here on
				// arrives.
				cl.behind, cl.reader = false, nil
				cl.mu.Unlock()
				return
			}
			cl.mu.Unlock()
		case err != nil:
			b.notStored.warn(b.log, "what waits for a client cannot be read, trying again", "client", cl.id, "err", err)
			select {
			case <-c.done:
			case <-time.After(time.Second):
			}
		default:
			b.bring(c, stored)
		}
	}
}

// bring queues a message that was read. A full queue is no matter: it is read
// again when there is room.
func (b *Broker) bring(c *conn, stored cluster.Message) {
	cl := c.client
	m, err := inboxMessage(stored)
	if err != nil {
		b.log.Error("a message of the inbox cannot be read and is passed over", "topic", clip(stored.Topic), "err", err)
		cl.mu.Lock()
		cl.read = max(cl.read, stored.Sequence)
		cl.mu.Unlock()
		return
	}
	var mine *session.Message
	b.each(m, stored.Origin, func(hit *client, m session.Message) {
		if hit == cl {
			mine = &m
		}
	})
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c || cl.ended || m.Sequence <= cl.read {
		return
	}
	if mine == nil || b.queue(cl, *mine) == nil || mine.QoS == 0 {
		cl.read = m.Sequence
	}
}

// inboxFilters are the filters of a session that messages of the inbox can match.
func inboxFilters(s *session.Session) (filters []string) {
	for sub := range s.Subscriptions {
		if name, err := topics.Parse(sub.Filter); err == nil && name.Kind != topics.KindCommand || isShared(sub.Filter) {
			continue
		}
		filters = append(filters, sub.Filter)
	}
	return filters
}

// cursor is up to where a session has everything of the inbox. The caller holds
// cl.mu.
func (b *Broker) cursor(cl *client) uint64 {
	if oldest := cl.session.Oldest(); oldest > 0 {
		return oldest - 1
	}
	if cl.behind {
		return cl.read
	}
	return max(cl.read, b.inboxAt.Load())
}

// handled removes a message from the inbox that only the client who has
// acknowledged it could want: a command is for one device.
func (b *Broker) handled(m session.Message) {
	if name, err := topics.Parse(m.Topic); err == nil && m.Sequence > 0 && name.Kind == topics.KindCommand {
		b.store.Remove(m.Sequence)
	}
}

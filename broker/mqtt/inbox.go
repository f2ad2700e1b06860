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
// the log of its plane before it is acknowledged (of the fleet's that is the inbox):
// one replicated stream that every node follows. Sessions take from it in one of two
// ways:
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

// attributes is what a log keeps of a message beside topic and payload.
type attributes struct {
	QoS     byte               `json:"qos"`
	Retain  bool               `json:"retain,omitempty"`
	User    []session.Property `json:"user,omitempty"`
	Content *session.Content   `json:"content,omitempty"`
	Expires time.Time          `json:"expires,omitzero"` // Message Expiry Interval; zero: none was given
}

func attributesOf(m session.Message) attributes {
	return attributes{QoS: m.QoS, Retain: m.Retain, User: m.Properties, Content: m.Content, Expires: m.Expires}
}

// message is all but topic and payload.
func (a attributes) message() session.Message {
	return session.Message{QoS: a.QoS, Retain: a.Retain, Properties: a.User, Content: a.Content, Expires: a.Expires}
}

// toStore is a message as a log keeps it, for its subscribers, whoever they are.
func (b *Broker) toStore(m session.Message, origin string) (cluster.Message, error) {
	a, err := json.Marshal(attributesOf(m))
	// No session that exists now outlives this.
	keep := b.cfg.Limits.MaxSessionExpiry
	if !m.Expires.IsZero() {
		keep = min(keep, time.Until(m.Expires))
	}
	return cluster.Message{Topic: m.Topic, Payload: m.Payload, Attributes: a, Origin: origin, Keep: keep}, err
}

func fromStore(stored cluster.Message) (session.Message, error) {
	var a attributes
	if err := json.Unmarshal(stored.Attributes, &a); err != nil {
		return session.Message{}, err
	}
	m := a.message()
	m.Topic, m.Payload, m.Sequence = stored.Topic, stored.Payload, stored.Sequence
	return m, nil
}

// arrived is called for every message of a plane's log that was stored on any node,
// in order.
func (b *Broker) arrived(p *plane, stored cluster.Message) {
	m, err := fromStore(stored)
	if err != nil {
		b.log.Error("a stored message cannot be read and is passed over", "topic", clip(stored.Topic), "err", err)
		return
	}
	each(p.next(m), m, stored.Origin, func(cl *client, m session.Message) {
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
	p.at.Store(stored.Sequence)
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
		filters, changes := cl.loggedFilters(), cl.changes
		cl.mu.Unlock()
		ctx, cancel := context.WithTimeout(b.life, storeWait)
		stored, err := cl.plane.log.Next(ctx, filters, from)
		cancel()
		switch {
		case errors.Is(err, cluster.ErrNotFound):
			cl.mu.Lock()
			if !cl.missed && cl.changes == changes && cl.conn == c {
				// All that is stored was read, and what is stored from here on
				// arrives.
				cl.behind, cl.reader = false, nil
				cl.session.Resumed()
				b.pump(cl)
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
			b.bring(c, stored, changes)
		}
	}
}

// bring queues a message that was read for the filters that the session had then: if
// they have changed since, an earlier one may match the new ones. A full queue is no
// matter: it is read again when there is room.
func (b *Broker) bring(c *conn, stored cluster.Message, changes int) {
	cl := c.client
	m, err := fromStore(stored)
	if err != nil {
		b.log.Error("a stored message cannot be read and is passed over", "topic", clip(stored.Topic), "err", err)
		cl.mu.Lock()
		cl.read = max(cl.read, stored.Sequence)
		cl.mu.Unlock()
		return
	}
	var mine *session.Message
	each(cl.plane.match(m), m, stored.Origin, func(hit *client, m session.Message) {
		if hit == cl {
			mine = &m
		}
	})
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != c || cl.ended || cl.changes != changes || m.Sequence <= cl.read {
		return
	}
	if mine == nil || b.queue(cl, *mine) == nil || mine.QoS == 0 {
		cl.read = m.Sequence
	}
}

// loggedFilters are the filters that messages of the client's log can match. The
// caller holds cl.mu.
func (cl *client) loggedFilters() (filters []string) {
	for sub := range cl.session.Subscriptions {
		if isShared(sub.Filter) {
			continue
		}
		if name, err := topics.Parse(sub.Filter); err == nil && !cl.plane.open && name.Kind != topics.KindCommand {
			continue
		}
		filters = append(filters, sub.Filter)
	}
	return filters
}

// cursor is up to where a session has everything of its log. The caller holds
// cl.mu.
func (b *Broker) cursor(cl *client) uint64 {
	if oldest := cl.session.Oldest(); oldest > 0 {
		return oldest - 1
	}
	if cl.behind {
		return cl.read
	}
	return max(cl.read, cl.plane.at.Load())
}

// handled removes a message from the inbox that only the client who has
// acknowledged it could want: a command is for one device.
func (b *Broker) handled(cl *client, m session.Message) {
	if m.Sequence == 0 || cl.plane.open {
		return
	}
	if name, err := topics.Parse(m.Topic); err == nil && name.Kind == topics.KindCommand {
		cl.plane.log.Remove(m.Sequence)
	}
}

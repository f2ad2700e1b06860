package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	inboxStream = "inbox"
	inboxPrefix = "inbox."
)

// Message is kept for the sessions that are subscribed to its topic, on whichever
// node they are or will be, until it is removed or its time is over.
type Message struct {
	Topic   string
	Payload []byte // not copied: it must not change until done was called
	// Attributes are the edge's own, as it encodes them.
	Attributes json.RawMessage
	// Origin is the client that published it.
	Origin string
	// Keep is for how long, at most; whole seconds, at least one.
	Keep time.Duration
	// Sequence grows with every message of any topic. Append sets it.
	Sequence uint64
}

func (c *Cluster) openInbox(ctx context.Context) (err error) {
	// Without direct gets: only the leader knows for sure that nothing follows.
	c.inbox, err = c.stream(ctx, jetstream.StreamConfig{
		Name: inboxStream, Subjects: []string{inboxPrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxBytes: c.cfg.MaxInboxBytes, MaxMsgsPerSubject: int64(c.cfg.MaxInboxPerTopic),
		DiscardNewPerSubject: c.cfg.MaxInboxPerTopic > 0, AllowMsgTTL: true,
	})
	if err != nil {
		return err
	}
	c.inboxLast, err = c.lastSequence(ctx, c.inbox)
	return err
}

// InboxLast is the sequence of the newest message before Open.
func (c *Cluster) InboxLast() uint64 { return c.inboxLast }

// Append stores a message and returns at once; done is called when it is stored,
// or with ErrFull, ErrBusy or ErrUnavailable. done must not block; it may be
// called before Append returns. The messages of one caller are stored in the
// order of the calls.
func (c *Cluster) Append(m Message, done func(error)) {
	msg := &nats.Msg{Subject: inboxPrefix + subjectOf(m.Topic), Data: m.Payload, Header: nats.Header{
		headerOrigin:           {m.Origin},
		headerAttributes:       {string(m.Attributes)},
		jetstream.MsgTTLHeader: {strconv.FormatInt(int64(max(m.Keep, time.Second).Round(time.Second)/time.Second), 10) + "s"},
	}}
	c.send(msg, func(_ Stored, err error) {
		if err != nil {
			c.metrics.failed.With(reason(err)).Inc()
		} else {
			c.metrics.stored.With(inboxStream).Inc()
		}
		done(err)
	})
}

// Follow hands every message that was stored since Open to handle, in order,
// until ctx ends. It is how a message reaches the sessions of this node.
func (c *Cluster) Follow(ctx context.Context, handle func(Message)) {
	next := c.inboxLast + 1
	for ctx.Err() == nil {
		err := c.follow(ctx, c.inbox, &next, func(msg jetstream.Msg, sequence uint64) {
			m, err := inboxMessage(msg.Subject(), msg.Headers(), msg.Data(), sequence)
			if err != nil {
				c.log.Error("a message of the inbox cannot be read and is passed over", "err", err)
				return
			}
			handle(m)
		})
		if ctx.Err() == nil {
			c.log.Error("following the inbox was interrupted and begins again", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// Next returns the first message from a sequence on whose topic matches one of
// the filters, or ErrNotFound.
func (c *Cluster) Next(ctx context.Context, filters []string, from uint64) (first Message, err error) {
	found := false
	for _, filter := range filters {
		for _, subject := range subjectsOf(filter) {
			m, err := c.next(ctx, filter, inboxPrefix+subject, from)
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				return Message{}, err
			}
			if !found || m.Sequence < first.Sequence {
				first, found = m, true
			}
		}
	}
	if !found {
		return Message{}, ErrNotFound
	}
	return first, nil
}

func (c *Cluster) next(ctx context.Context, filter, subject string, from uint64) (Message, error) {
	for {
		raw, err := c.inbox.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return Message{}, ErrNotFound
		}
		if err != nil {
			return Message{}, fmt.Errorf("inbox: %w: %w", ErrUnavailable, err)
		}
		m, err := inboxMessage(raw.Subject, raw.Header, raw.Data, raw.Sequence)
		if err == nil && topics.Match(filter, m.Topic) { // "+" does not match "$SYS", "*" does
			return m, nil
		}
		from = raw.Sequence + 1
	}
}

// Remove deletes a message that nobody else waits for. If that fails, it comes
// once more to whoever asks for it.
func (c *Cluster) Remove(sequence uint64) {
	request, err := json.Marshal(map[string]any{"seq": sequence, "no_erase": true})
	if err != nil {
		return // cannot be
	}
	if err := c.publishing.Publish("$JS.API.STREAM.MSG.DELETE."+inboxStream, request); err != nil {
		c.log.Debug("a message stays in the inbox", "sequence", sequence, "err", err)
	}
}

// Waiting is how many messages the inbox holds.
func (c *Cluster) Waiting(ctx context.Context) (uint64, error) {
	info, err := c.inbox.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("inbox: %w: %w", ErrUnavailable, err)
	}
	return info.State.Msgs, nil
}

func inboxMessage(subject string, header nats.Header, data []byte, sequence uint64) (Message, error) {
	topic, err := topicOf(strings.TrimPrefix(subject, inboxPrefix))
	if err != nil {
		return Message{}, fmt.Errorf("inbox: message %d: %w", sequence, err)
	}
	return Message{
		Topic: topic, Payload: data, Attributes: json.RawMessage(header.Get(headerAttributes)),
		Origin: header.Get(headerOrigin), Sequence: sequence,
	}, nil
}

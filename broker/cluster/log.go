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
	openStream  = "open"
)

// Log is a replicated stream of messages that every node follows, and that sessions
// read what they have missed from.
type Log struct {
	cluster *Cluster
	name    string // also the first token of its subjects
	stream  jetstream.Stream
	last    uint64 // last sequence before Open
	place   *frontier
}

// Message is kept for the sessions that are subscribed to its topic, on whichever
// node they are or will be, until it is removed or its time is over.
type Message struct {
	Topic   string
	Payload []byte // not copied: it must not change until done was called
	// Attributes are the edge's own, as it encodes them.
	Attributes json.RawMessage
	// Origin is the client that published it.
	Origin string
	// Keep is for how long, at most; whole seconds, at least one. Zero: for ever.
	Keep time.Duration
	// Sequence grows with every message of any topic. Append sets it.
	Sequence uint64
}

// openLogs makes the inbox, and the log of open topics if there are any.
func (c *Cluster) openLogs(ctx context.Context) (err error) {
	// Without direct gets: only the leader knows for sure that nothing follows.
	c.inbox, err = c.openLog(ctx, jetstream.StreamConfig{
		Name: inboxStream, MaxBytes: c.cfg.MaxInboxBytes, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: int64(c.cfg.MaxInboxPerTopic), DiscardNewPerSubject: c.cfg.MaxInboxPerTopic > 0,
	})
	if err != nil || c.cfg.MaxOpenBytes == 0 {
		return err
	}
	// Its topics are for trying things out. When it is full the oldest messages go,
	// also if a client that is away has not got them.
	c.open, err = c.openLog(ctx, jetstream.StreamConfig{
		Name: openStream, MaxBytes: c.cfg.MaxOpenBytes, Discard: jetstream.DiscardOld,
	})
	if err != nil {
		return err
	}
	return c.openKept(ctx)
}

func (c *Cluster) openLog(ctx context.Context, cfg jetstream.StreamConfig) (*Log, error) {
	cfg.Subjects = []string{cfg.Name + ".>"}
	cfg.Retention, cfg.AllowMsgTTL = jetstream.LimitsPolicy, true
	stream, err := c.replicated(ctx, cfg)
	if err != nil {
		return nil, err
	}
	last, err := c.lastSequence(ctx, stream)
	if err != nil {
		return nil, err
	}
	return &Log{cluster: c, name: cfg.Name, stream: stream, last: last, place: newFrontier(last)}, nil
}

// Inbox is the log of what waits for the fleet's clients.
func (c *Cluster) Inbox() *Log { return c.inbox }

// OpenTopics is the log of open topics, nil if there are none.
func (c *Cluster) OpenTopics() *Log { return c.open }

// AtOpen is the sequence of the newest message before the cluster was opened.
func (l *Log) AtOpen() uint64 { return l.last }

// Last is the sequence of the newest message, as the stream's leader knows it: what
// was reported as stored is not younger.
func (l *Log) Last(ctx context.Context) (uint64, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %w", l.name, ErrUnavailable, err)
	}
	l.place.leads(info.State.LastSeq)
	return info.State.LastSeq, nil
}

// endTopic is that of the markers of End: no filter of the fleet matches it.
const endTopic = "$end"

// End is where the log ends: all that was ever stored is at or before it, also what
// the stream's leader had still to come to. It stores a marker to know.
func (l *Log) End(ctx context.Context) (uint64, error) {
	type end struct {
		sequence uint64
		err      error
	}
	stored := make(chan end, 1)
	l.Append(Message{Topic: endTopic, Attributes: json.RawMessage("{}"), Keep: time.Second}, func(sequence uint64, err error) {
		stored <- end{sequence, err}
	})
	select {
	case e := <-stored:
		return e.sequence, e.err
	case <-ctx.Done():
		return 0, fmt.Errorf("%s: %w: %w", l.name, ErrUnavailable, ctx.Err())
	}
}

// Waiting is how many messages the log holds.
func (l *Log) Waiting(ctx context.Context) (uint64, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %w", l.name, ErrUnavailable, err)
	}
	return info.State.Msgs, nil
}

// Append stores a message and returns at once; done is called with its sequence when
// it is stored, or with ErrFull, ErrBusy or ErrUnavailable. done must not block; it
// may be called before Append returns. The messages of one caller are stored in the
// order of the calls.
func (l *Log) Append(m Message, done func(sequence uint64, err error)) {
	c := l.cluster
	c.send(encode(l.name, m), func(s Stored, err error) {
		if err != nil {
			c.metrics.failed.With(reason(err)).Inc()
		} else {
			c.metrics.stored.With(l.name).Inc()
			l.place.leads(s.Sequence)
		}
		done(s.Sequence, err)
	})
}

func encode(prefix string, m Message) *nats.Msg {
	msg := &nats.Msg{Subject: prefix + "." + subjectOf(m.Topic), Data: m.Payload, Header: nats.Header{
		headerOrigin:     {m.Origin},
		headerAttributes: {string(m.Attributes)},
	}}
	if m.Keep > 0 {
		seconds := int64(max(m.Keep, time.Second).Round(time.Second) / time.Second)
		msg.Header[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(seconds, 10) + "s"}
	}
	return msg
}

// Follow hands every message that was stored since the cluster was opened to handle,
// in order, until ctx ends. It is how a message reaches the sessions of this node.
func (l *Log) Follow(ctx context.Context, handle func(Message)) {
	log := l.cluster.log
	next := l.last + 1
	for ctx.Err() == nil {
		err := l.cluster.follow(ctx, l.stream, &next, func(msg jetstream.Msg, sequence uint64) {
			l.place.followed.Store(sequence)
			m, err := l.message(msg.Subject(), msg.Headers(), msg.Data(), sequence)
			if err != nil {
				log.Error("a stored message cannot be read and is passed over", "err", err)
				return
			}
			handle(m)
		})
		if ctx.Err() == nil {
			log.Error("following a log was interrupted and begins again", "log", l.name, "err", err)
			pause(ctx, time.Second)
		}
	}
}

// Next returns the first message from a sequence on whose topic matches one of
// the filters, or ErrNotFound: then none is there that was followed before the call.
func (l *Log) Next(ctx context.Context, filters []string, from uint64) (first Message, err error) {
	if err := l.place.await(ctx, l.stream); err != nil {
		return Message{}, fmt.Errorf("%s: %w", l.name, err)
	}
	for {
		// The subjects are asked for one after the other. What is found beyond this may
		// be younger than something of a subject that had nothing when it was asked.
		sure := l.place.led.Load()
		if first, err = l.earliest(ctx, filters, from); err != nil || first.Sequence <= sure {
			return first, err
		}
		l.place.leads(first.Sequence)
	}
}

// earliest asks for each subject, and returns the first message of all.
func (l *Log) earliest(ctx context.Context, filters []string, from uint64) (first Message, err error) {
	found := false
	for _, filter := range filters {
		for _, subject := range subjectsOf(filter) {
			m, err := l.next(ctx, filter, l.name+"."+subject, from)
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

func (l *Log) next(ctx context.Context, filter, subject string, from uint64) (Message, error) {
	for {
		raw, err := l.stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return Message{}, ErrNotFound
		}
		if err != nil {
			return Message{}, fmt.Errorf("%s: %w: %w", l.name, ErrUnavailable, err)
		}
		m, err := l.message(raw.Subject, raw.Header, raw.Data, raw.Sequence)
		if err == nil && topics.Match(filter, m.Topic) { // "+" does not match "$SYS", "*" does
			return m, nil
		}
		from = raw.Sequence + 1
	}
}

// Remove deletes a message that nobody else waits for. If that fails, it comes
// once more to whoever asks for it.
func (l *Log) Remove(sequence uint64) {
	request, err := json.Marshal(map[string]any{"seq": sequence, "no_erase": true})
	if err != nil {
		return // cannot be
	}
	if err := l.cluster.publishing.Publish("$JS.API.STREAM.MSG.DELETE."+l.name, request); err != nil {
		l.cluster.log.Debug("a message stays in the log", "log", l.name, "sequence", sequence, "err", err)
	}
}

func (l *Log) message(subject string, header nats.Header, data []byte, sequence uint64) (Message, error) {
	return decode(l.name, subject, header, data, sequence)
}

// decode undoes encode.
func decode(prefix, subject string, header nats.Header, data []byte, sequence uint64) (Message, error) {
	topic, err := topicOf(strings.TrimPrefix(subject, prefix+"."))
	if err != nil {
		return Message{}, fmt.Errorf("%s: message %d: %w", prefix, sequence, err)
	}
	return Message{
		Topic: topic, Payload: data, Attributes: json.RawMessage(header.Get(headerAttributes)),
		Origin: header.Get(headerOrigin), Sequence: sequence,
	}, nil
}

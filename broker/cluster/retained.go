package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// putAttempts is how often a put is tried when others write the same topic.
const putAttempts = 5

// Retained is the newest message of a retained topic.
type Retained struct {
	Name    topics.Name
	Payload []byte // empty: the topic was cleared, by this version
	Version int64
	// Origin is the client that published it.
	Origin string
	// Revision is the stream's sequence: it grows with every put of any topic.
	Revision uint64
}

// Put replaces the retained message of a topic and returns at once; done is
// called with nil when the message is stored, or when equal bytes of the same
// version are retained already; with a StaleError when the version is not
// higher; else with ErrFull, ErrBusy or ErrUnavailable. Puts of one topic
// happen in the order of the calls. done must not block.
func (c *Cluster) Put(r Retained, done func(error)) {
	c.enqueue(r.Name.String(), string(r.Name.Kind), func() error { return c.put(r) }, done)
}

// put writes with compare-and-set, so that two writers, also on two nodes,
// cannot put an older version over a newer.
func (c *Cluster) put(r Retained) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StoreTimeout)
	defer cancel()
	msg := &nats.Msg{Subject: retainedSubject(r.Name), Data: r.Payload, Header: nats.Header{
		headerVersion: {formatVersion(r.Version)},
		headerOrigin:  {r.Origin},
	}}
	return c.swap(ctx, msg, func() (revision uint64, there bool, err error) {
		old, err := c.get(ctx, r.Name) // the swap knows whether it was the newest
		switch {
		case errors.Is(err, ErrNotFound):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		case r.Version == old.Version && bytes.Equal(r.Payload, old.Payload):
			return 0, true, nil // the first put may not have been committed
		case r.Version <= old.Version:
			return 0, false, &StaleError{Topic: r.Name.String(), Version: r.Version, Retained: old.Version}
		}
		return old.Revision, false, nil
	})
}

// swap puts msg in the place of what its subject has, if that has not changed since
// look saw it, and else looks again. look returns its revision, 0 for none, or that
// nothing is to be written because it is there already.
func (c *Cluster) swap(ctx context.Context, msg *nats.Msg, look func() (revision uint64, there bool, err error)) error {
	for range putAttempts {
		revision, there, err := look()
		if err != nil {
			return err
		}
		if there {
			return c.awaitCommit()
		}
		_, err = c.admin.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision))
		if lostRace(err) {
			continue
		}
		if err != nil {
			return storeError(err)
		}
		return c.awaitCommit()
	}
	return fmt.Errorf("%w: %d others wrote %s", ErrBusy, putAttempts, msg.Subject)
}

// lostRace reports whether somebody else wrote the subject meanwhile: look again.
func lostRace(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164)
}

func (c *Cluster) awaitCommit() error {
	result := make(chan error, 1)
	c.committed(func(err error) { result <- err })
	return <-result
}

// Get returns the retained message of a topic, or ErrNotFound. It is not older than
// what Watch had handed out before the call.
func (c *Cluster) Get(ctx context.Context, name topics.Name) (Retained, error) {
	if err := c.frontier.await(ctx, c.retained); err != nil {
		return Retained{}, fmt.Errorf("%s: %w", name, err)
	}
	return c.get(ctx, name)
}

// get is Get as the leader knows it.
func (c *Cluster) get(ctx context.Context, name topics.Name) (Retained, error) {
	raw, err := c.retained.GetLastMsgForSubject(ctx, retainedSubject(name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Retained{}, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if err != nil {
		return Retained{}, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, err)
	}
	return retainedMessage(raw.Subject, raw.Header, raw.Data, raw.Sequence)
}

func retainedMessage(subject string, header nats.Header, data []byte, sequence uint64) (Retained, error) {
	name, err := retainedName(subject)
	if err != nil {
		return Retained{}, err
	}
	version, err := strconv.ParseInt(header.Get(headerVersion), 10, 64)
	if err != nil {
		return Retained{}, fmt.Errorf("%s: version of the retained message: %w", name, err)
	}
	return Retained{Name: name, Payload: data, Version: version, Origin: header.Get(headerOrigin), Revision: sequence}, nil
}

// Scan reads the retained messages that match a filter, oldest first, and hands
// them to yield until it returns false. yield may block: it paces the reading.
// What Watch had handed out before the call is seen, or something newer; what is put
// during the scan may or may not be seen, and Watch sees it.
func (c *Cluster) Scan(ctx context.Context, filter string, yield func(Retained) bool) error {
	subjects := retainedSubjects(filter)
	if len(subjects) == 0 {
		return nil
	}
	if err := c.frontier.await(ctx, c.retained); err != nil {
		return fmt.Errorf("scan %s: %w", filter, err)
	}
	info, err := c.retained.Info(ctx)
	if err != nil {
		return fmt.Errorf("scan %s: %w: %w", filter, ErrUnavailable, err)
	}
	for _, subject := range subjects {
		if err := c.scan(ctx, filter, subject, info.State.LastSeq, yield); err != nil {
			return fmt.Errorf("scan %s: %w", filter, err)
		}
	}
	return nil
}

// scan reads one subject up to the revision last.
func (c *Cluster) scan(ctx context.Context, filter, subject string, last uint64, yield func(Retained) bool) error {
	var broken error
	err := lastOfEach(ctx, c.retained, subject, last, func(msg *jetstream.RawStreamMsg) bool {
		var r Retained
		r, broken = retainedMessage(msg.Subject, msg.Header, msg.Data, msg.Sequence)
		return broken == nil && (!topics.Match(filter, r.Name.String()) || yield(r))
	})
	return errors.Join(err, broken)
}

// lastOfEach reads the newest message of each subject of a stream that keeps no other,
// oldest first, up to a sequence that the stream's leader has. yield may block.
func lastOfEach(ctx context.Context, stream jetstream.Stream, subject string, last uint64, yield func(*jetstream.RawStreamMsg) bool) error {
	read, done, err := readAhead(ctx, stream, subject, last, yield)
	if err != nil || done {
		return err
	}
	// Whichever node has served that may have been behind: the leader has the rest,
	// which is nothing nearly always.
	for {
		msg, err := stream.GetMsg(ctx, read+1, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if msg.Sequence > last || !yield(msg) {
			return nil
		}
		read = msg.Sequence
	}
}

// readAhead is lastOfEach by a consumer, which brings many messages at a time, up to
// the end that the node knows of on which it is. read is the last sequence; done means
// that nothing up to last is left, or that yield wants no more.
func readAhead(ctx context.Context, stream jetstream.Stream, subject string, last uint64, yield func(*jetstream.RawStreamMsg) bool) (read uint64, done bool, err error) {
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		InactiveThreshold: time.Minute, MaxResetAttempts: 1,
	})
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	left := consumer.CachedInfo().NumPending
	if left == 0 {
		return 0, false, nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(256))
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for left > 0 {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return read, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return read, false, err
		}
		if meta.Sequence.Stream > last {
			return read, true, nil // put since, and so is all that follows
		}
		// The consumer's count, not our own: a message that is replaced meanwhile
		// is skipped, and its successor is pending.
		left, read = meta.NumPending, meta.Sequence.Stream
		if !yield(&jetstream.RawStreamMsg{Subject: msg.Subject(), Sequence: read, Header: msg.Headers(), Data: msg.Data()}) {
			return read, true, nil
		}
	}
	return read, read == last, nil
}

// Watch hands every retained message that was put since Open to handle, in the
// order of their revisions, until ctx ends. It is how a put reaches live
// subscribers, on this node and on any other.
func (c *Cluster) Watch(ctx context.Context, handle func(Retained)) error {
	next := c.watched + 1
	for ctx.Err() == nil {
		err := c.follow(ctx, c.retained, &next, func(msg jetstream.Msg, sequence uint64) {
			c.frontier.followed.Store(sequence)
			r, err := retainedMessage(msg.Subject(), msg.Headers(), msg.Data(), sequence)
			if err != nil {
				c.log.Error("a retained message cannot be read and is passed over", "err", err)
				return
			}
			handle(r)
		})
		if ctx.Err() == nil {
			c.log.Error("watching retained messages was interrupted and begins again", "err", err)
			pause(ctx, time.Second)
		}
	}
	return nil
}

// follow hands the messages of a stream from sequence *next on to handle, and
// keeps *next up to date, until something fails.
func (c *Cluster) follow(ctx context.Context, stream jetstream.Stream, next *uint64, handle func(msg jetstream.Msg, sequence uint64)) error {
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *next,
		MaxResetAttempts: 1, // or it would try for ever, whatever becomes of ctx
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1024))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		*next = meta.Sequence.Stream + 1
		handle(msg, meta.Sequence.Stream)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// RetainedCount is how many topics have a retained message.
func (c *Cluster) RetainedCount(ctx context.Context) (int64, error) {
	info, err := c.retained.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return int64(info.State.Msgs), nil
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// keptStream holds the newest retained message of each open topic, subject
	// kept.<topic>.
	keptStream = "kept"
	// clearedFor is how long it is remembered that a topic was cleared, so that a
	// slower put of an older message does not bring it back.
	clearedFor = time.Minute
)

func (c *Cluster) openKept(ctx context.Context) (err error) {
	c.kept, err = c.stream(ctx, jetstream.StreamConfig{
		Name: keptStream, Subjects: []string{keptStream + ".>"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxOpenBytes, AllowMsgTTL: true,
	})
	return err
}

// Keep makes a message of the log of open topics the retained one of its topic,
// unless a younger one is; an empty payload clears the topic. m.Sequence is its
// place in the log. It returns at once; done is as in Put, and gets nil also when
// a younger one is retained.
func (c *Cluster) Keep(m Message, done func(error)) {
	c.enqueue(m.Topic, keptStream, func() error { return c.keep(m) }, done)
}

func (c *Cluster) keep(m Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StoreTimeout)
	defer cancel()
	if len(m.Payload) == 0 {
		m.Keep = clearedFor
	}
	msg := encode(keptStream, m)
	msg.Header.Set(headerVersion, formatVersion(int64(m.Sequence)))
	return c.swap(ctx, msg, func() (revision uint64, there bool, err error) {
		raw, err := c.kept.GetLastMsgForSubject(ctx, msg.Subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return 0, false, nil
		case err != nil:
			return 0, false, fmt.Errorf("%s: %w: %w", keptStream, ErrUnavailable, err)
		}
		old, err := keptMessage(raw.Subject, raw.Header, raw.Data)
		return raw.Sequence, err == nil && old.Sequence >= m.Sequence, nil // what cannot be read is replaced
	})
}

// Kept reads the retained messages of open topics that match a filter, and hands
// those to yield whose place in the log is not after asOf, until it returns false.
// yield may block: it paces the reading.
func (c *Cluster) Kept(ctx context.Context, filter string, asOf uint64, yield func(Message) bool) error {
	info, err := c.kept.Info(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", keptStream, ErrUnavailable, err)
	}
	for _, subject := range subjectsOf(filter) {
		var broken error
		err := lastOfEach(ctx, c.kept, keptStream+"."+subject, info.State.LastSeq, func(msg *jetstream.RawStreamMsg) bool {
			var m Message
			if m, broken = keptMessage(msg.Subject, msg.Header, msg.Data); broken != nil {
				return false
			}
			if m.Sequence > asOf || len(m.Payload) == 0 || !topics.Match(filter, m.Topic) {
				return true
			}
			return yield(m)
		})
		if err = errors.Join(err, broken); err != nil {
			return fmt.Errorf("%s: %w", keptStream, err)
		}
	}
	return nil
}

func keptMessage(subject string, header nats.Header, data []byte) (Message, error) {
	sequence, err := strconv.ParseUint(header.Get(headerVersion), 10, 64)
	if err != nil {
		return Message{}, fmt.Errorf("%s: place in the log: %w", keptStream, err)
	}
	return decode(keptStream, subject, header, data, sequence)
}

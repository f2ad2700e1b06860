package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	presentStream = "present"
	presentPrefix = "present."
	// goneFor is how long the record of an ended connection is kept. Until
	// then it guards against nothing but its own late arrival.
	goneFor = time.Hour
)

// Mark is the stored record of a live connection. It outlives a killed broker,
// so that the next start can tell who is not connected any more.
type Mark struct {
	cluster *Cluster
	subject string

	mu       sync.Mutex // guards what follows
	sequence uint64     // of the record; 0 while it is under way
	over     bool       // ended before the record was stored
}

// Mark records that a device is connected and returns at once. payload is what
// Leftovers gives back. A record that cannot be stored is counted as a failed
// store, and the connection goes on without it.
func (c *Cluster) Mark(device string, payload []byte) *Mark {
	m := &Mark{cluster: c, subject: presentPrefix + device}
	c.send(&nats.Msg{Subject: m.subject, Data: payload}, func(s Stored, err error) {
		if err != nil {
			c.metrics.failed.With(reason(err)).Inc()
			return
		}
		m.mu.Lock()
		m.sequence = s.Sequence
		over := m.over
		m.mu.Unlock()
		if over {
			m.remove()
		}
	})
	return m
}

// End takes the record out, unless a later connection of the device has
// replaced it. If the broker dies before that is stored, the device is among
// the leftovers once more.
func (m *Mark) End() {
	m.mu.Lock()
	m.over = true
	stored := m.sequence > 0
	m.mu.Unlock()
	if stored {
		m.remove()
	}
}

func (m *Mark) remove() {
	m.cluster.send(&nats.Msg{Subject: m.subject, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(m.sequence, 10)},
		jetstream.MsgTTLHeader:              {goneFor.String()},
	}}, func(Stored, error) {}) // refused: somebody newer has the record
}

func (c *Cluster) openPresent(ctx context.Context) error {
	stream, err := c.stream(ctx, jetstream.StreamConfig{
		Name: presentStream, Subjects: []string{presentPrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: c.cfg.MaxRetainedBytes, AllowMsgTTL: true,
	})
	if err != nil {
		return err
	}
	c.present = stream
	c.presentLast, err = c.lastSequence(ctx, stream)
	return err
}

// Leftovers hands the records of connections that an earlier run of the broker
// left behind to yield, until it returns false. Those of this run are not among
// them.
func (c *Cluster) Leftovers(ctx context.Context, yield func(device string, payload []byte, m *Mark) bool) error {
	consumer, err := c.present.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	left := consumer.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(256))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer messages.Stop()
	for left > 0 {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream > c.presentLast {
			return nil // of this run, and so is all that follows
		}
		left = meta.NumPending
		if len(msg.Data()) == 0 {
			continue // ended
		}
		device := strings.TrimPrefix(msg.Subject(), presentPrefix)
		if !yield(device, msg.Data(), &Mark{cluster: c, subject: msg.Subject(), sequence: meta.Sequence.Stream}) {
			return nil
		}
	}
	return nil
}

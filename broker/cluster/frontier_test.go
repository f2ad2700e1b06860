package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go/jetstream"
)

// briefly is a context for what cannot end well.
func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestAReadIsNotBehindWhatWasFollowed: a node may be told of a message that the
// stream's leader has still to store. Until it has, there is no answer.
func TestAReadIsNotBehindWhatWasFollowed(t *testing.T) {
	t.Parallel()
	c := openTopics(t)
	l := c.OpenTopics()
	last := mustAppend(t, l, "t", "one")
	l.place.followed.Store(last + 1)
	if m, err := l.Next(briefly(t), []string{"t"}, last+1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %+v, %v", m, err)
	}
	mustAppend(t, l, "t", "two")
	if m, err := l.Next(t.Context(), []string{"t"}, last+1); err != nil || string(m.Payload) != "two" {
		t.Errorf("got %+v, %v", m, err)
	}
	name := topics.Name{Kind: topics.KindManifest, ID: "dock"}
	if err := mustAnswer(t, c, "dock", 1, "one"); err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c.frontier.followed.Store(r.Revision + 1)
	if r, err := c.Get(briefly(t), name); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %+v, %v", r, err)
	}
	if err := c.Scan(briefly(t), "fleet/v1/cohorts/+/manifest", func(Retained) bool { return true }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("scan: %v", err)
	}
	if err := mustAnswer(t, c, "dock", 2, "two"); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(t.Context(), name); err != nil || r.Version != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// late is a stream that stores a message between two questions.
type late struct {
	jetstream.Stream
	asked int
	store func()
}

func (s *late) GetMsg(ctx context.Context, sequence uint64, options ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	defer func() {
		if s.asked++; s.asked == 1 {
			s.store()
		}
	}()
	return s.Stream.GetMsg(ctx, sequence, options...)
}

// TestTheFirstOfSeveralFiltersIsTheFirst: also when it is stored after its filter was
// asked for, and before another filter's.
func TestTheFirstOfSeveralFiltersIsTheFirst(t *testing.T) {
	t.Parallel()
	l := openTopics(t).OpenTopics()
	stream := l.stream
	l.stream = &late{Stream: stream, store: func() {
		mustAppend(t, l, "a", "first")
		mustAppend(t, l, "b", "second")
		l.place = newFrontier(0) // another node has stored them
	}}
	m, err := l.Next(t.Context(), []string{"a", "b"}, 1)
	if err != nil || string(m.Payload) != "first" {
		t.Errorf("got %s, %v", m.Payload, err)
	}
}

// lagging is a stream on a node that does not have the newest messages yet.
type lagging struct {
	jetstream.Stream
	has uint64
}

type laggingConsumer struct {
	jetstream.Consumer
	has uint64
}

func (s lagging) OrderedConsumer(ctx context.Context, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	consumer, err := s.Stream.OrderedConsumer(ctx, cfg)
	return laggingConsumer{consumer, s.has}, err
}

func (c laggingConsumer) CachedInfo() *jetstream.ConsumerInfo {
	info := *c.Consumer.CachedInfo()
	info.NumPending = c.has
	return &info
}

func (c laggingConsumer) Messages(options ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	messages, err := c.Consumer.Messages(options...)
	return laggingMessages{messages, c.has}, err
}

type laggingMessages struct {
	jetstream.MessagesContext
	has uint64
}

type laggingMsg struct {
	jetstream.Msg
	has uint64
}

func (m laggingMessages) Next(options ...jetstream.NextOpt) (jetstream.Msg, error) {
	msg, err := m.MessagesContext.Next(options...)
	return laggingMsg{msg, m.has}, err
}

func (m laggingMsg) Metadata() (*jetstream.MsgMetadata, error) {
	meta, err := m.Msg.Metadata()
	if err == nil {
		meta.NumPending = m.has - meta.Sequence.Stream
	}
	return meta, err
}

func TestAScanThroughANodeThatIsBehindIsWhole(t *testing.T) {
	t.Parallel()
	c := openTopics(t)
	for i := range 5 {
		if err := mustAnswer(t, c, fmt.Sprint("cohort-", i), 1, "x"); err != nil {
			t.Fatal(err)
		}
	}
	stream := c.retained
	for has := range uint64(6) {
		c.retained = lagging{stream, has}
		var got []string
		err := c.Scan(t.Context(), "fleet/v1/cohorts/+/manifest", func(r Retained) bool {
			got = append(got, r.Name.ID)
			return true
		})
		if want := []string{"cohort-0", "cohort-1", "cohort-2", "cohort-3", "cohort-4"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("a node with %d: got %v, %v", has, got, err)
		}
	}
}

func TestTheEndOfALogIsAfterAllThatWasStored(t *testing.T) {
	t.Parallel()
	l := openTopics(t).OpenTopics()
	last := mustAppend(t, l, "t", "x")
	if end, err := l.End(t.Context()); err != nil || end != last+1 {
		t.Errorf("got %d, %v; the last message is %d", end, err, last)
	}
	if _, err := l.Next(t.Context(), []string{"#", "+"}, last+1); !errors.Is(err, ErrNotFound) {
		t.Errorf("the marker is a message: %v", err)
	}
}

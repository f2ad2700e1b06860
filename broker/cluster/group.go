package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fetchWait is how long one request for messages stays open. It is also the
// longest that a message can be on its way to members who have just left.
const fetchWait = time.Second

// Group is a consumer group: it remembers what was handled, whether any member is
// there or not. Those of the uplink are declared; those of open topics come and go.
type Group struct {
	Name    string
	cluster *Cluster
	shards  []jetstream.Consumer
	filter  string // of open topics: of the shared subscription
	inner   string // and without the share
}

// Group returns a declared group.
func (c *Cluster) Group(name string) (*Group, bool) {
	g, ok := c.groups[name]
	return g, ok
}

// Groups returns the declared groups.
func (c *Cluster) Groups() []*Group {
	groups := make([]*Group, 0, len(c.groups))
	for _, name := range c.cfg.Groups {
		groups = append(groups, c.groups[name])
	}
	return groups
}

// openGroupIdle is for how long a group of an open topic outlives its last member.
const openGroupIdle = time.Hour

// OpenGroup makes sure that a group of an open topic exists; filter is that of the
// shared subscription, share name included. It gets what is published from now on,
// and forgets everything when it had no member for an hour.
func (c *Cluster) OpenGroup(ctx context.Context, filter string) (*Group, error) {
	name, inner, shared, err := topics.ParseShare(filter)
	if err != nil || !shared {
		return nil, fmt.Errorf("%q is not a shared subscription: %w", filter, topics.ErrFilter)
	}
	var subjects []string
	for _, subject := range subjectsOf(inner) {
		subjects = append(subjects, openStream+"."+subject)
	}
	sum := sha256.Sum256([]byte(filter))
	consumer, err := c.open.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: hex.EncodeToString(sum[:16]), FilterSubjects: subjects, AckPolicy: jetstream.AckExplicitPolicy, AckWait: AckWait,
		MaxDeliver: -1, MaxAckPending: maxAckPending, DeliverPolicy: jetstream.DeliverNewPolicy, InactiveThreshold: openGroupIdle,
	})
	if err != nil {
		return nil, fmt.Errorf("group %s: %w: %w", name, ErrUnavailable, err)
	}
	return &Group{Name: name, cluster: c, shards: []jetstream.Consumer{consumer}, filter: filter, inner: inner}, nil
}

// Shards is how many shards there are to fetch from.
func (g *Group) Shards() int { return len(g.shards) }

// Delivery is a stored message on loan to a member of a group. Exactly one of
// Done and Return ends it; Keep holds it longer than AckWait.
type Delivery struct {
	Uplink
	Stored
	Open    *Message // of an open topic, and then Uplink is zero
	Attempt uint64   // 1 at the first delivery to anybody

	msg jetstream.Msg
}

// Done says that the group has handled the message.
func (d *Delivery) Done() error { return d.msg.Ack() }

// Return gives the message back, to be delivered again after the delay, to the
// same member or another.
func (d *Delivery) Return(delay time.Duration) error {
	if delay <= 0 {
		return d.msg.Nak()
	}
	return d.msg.NakWithDelay(delay)
}

// Keep tells the store that the message is still being handled.
func (d *Delivery) Keep() error { return d.msg.InProgress() }

// Fetch waits for up to n messages of a shard, for at most a second, and hands
// them out as they come.
func (g *Group) Fetch(ctx context.Context, shard, n int, deliver func(*Delivery)) error {
	batch, err := g.shards[shard].Fetch(n, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return fmt.Errorf("group %s: %w: %w", g.Name, ErrUnavailable, err)
	}
	// The batch is always read to its end, also when ctx is over: what the
	// server has sent would otherwise lie about until AckWait.
	for msg := range batch.Messages() {
		d, err := g.delivery(shard, msg)
		if err != nil {
			g.cluster.log.Error("a stored message cannot be read and is set aside", "group", g.Name, "shard", shard, "err", err)
			_ = msg.Term() // it would fail for ever; the log has it
			continue
		}
		if d.Open != nil && !topics.Match(g.inner, d.Open.Topic) { // "+" does not match "$SYS", "*" does
			_ = d.Done() // at worst it comes again
			continue
		}
		if d.Open == nil {
			if err := g.cluster.awaitDurable(shard, d.Sequence); err != nil {
				_ = d.Return(time.Second) // it stays stored, but nobody may see it yet
				continue
			}
		}
		deliver(d)
	}
	err = batch.Error()
	if g.filter != "" && forgotten(err) {
		// Nobody has asked for so long that it was forgotten. It begins anew.
		if _, err = g.cluster.OpenGroup(ctx, g.filter); err != nil {
			return err
		}
		g.cluster.log.Info("a shared subscription had no member for long and begins anew", "filter", g.filter)
		return nil
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		return fmt.Errorf("group %s: %w: %w", g.Name, ErrUnavailable, err)
	}
	return nil
}

// forgotten reports whether a request failed because there is no such consumer.
func forgotten(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoHeartbeat) ||
		errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDeleted)
}

func (g *Group) delivery(shard int, msg jetstream.Msg) (*Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	if g.inner != "" {
		m, err := decode(openStream, msg.Subject(), msg.Headers(), msg.Data(), meta.Sequence.Stream)
		return &Delivery{Open: &m, Attempt: meta.NumDelivered, msg: msg}, err
	}
	name, err := uplinkName(msg.Subject())
	if err != nil {
		return nil, err
	}
	return &Delivery{
		Uplink: Uplink{
			Name: name, Payload: msg.Data(),
			Model: msg.Headers().Get(headerModel), Hardware: msg.Headers().Get(headerHardware),
		},
		Stored:  Stored{Shard: shard, Sequence: meta.Sequence.Stream, At: meta.Timestamp},
		Attempt: meta.NumDelivered,
		msg:     msg,
	}, nil
}

// Backlog is how many messages the group has not handled, those on loan
// included.
func (g *Group) Backlog(ctx context.Context) (int64, error) {
	var n int64
	for _, consumer := range g.shards {
		info, err := consumer.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("group %s: %w: %w", g.Name, ErrUnavailable, err)
		}
		n += int64(info.NumPending) + int64(info.NumAckPending)
	}
	return n, nil
}

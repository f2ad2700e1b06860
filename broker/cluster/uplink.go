package cluster

import (
	"errors"
	"strconv"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of stored messages.
const (
	headerModel      = "Gs-Model"
	headerHardware   = "Gs-Hardware"
	headerVersion    = "Gs-Version"
	headerOrigin     = "Gs-Origin"
	headerConnection = "Gs-Connection"
	headerReplaced   = "Gs-Replaced"
	headerAttributes = "Gs-Attributes"
)

// Uplink is a message from a device, or from the broker about it.
type Uplink struct {
	Name     topics.Name
	Payload  []byte // not copied: it must not change until done was called
	Model    string // from the device's certificate
	Hardware string
}

// Stored says where a message is.
type Stored struct {
	Shard    int
	Sequence uint64 // in the shard
	At       time.Time
}

// Store hands a message to the stream and returns at once; done is called when
// the message is stored or is known not to be: with nil, ErrFull, ErrBusy or
// ErrUnavailable. done must not block; it may be called before Store returns.
// Messages of one device are stored in the order of the calls.
func (c *Cluster) Store(u Uplink, done func(Stored, error)) {
	shard := shardOf(u.Name.ID, c.cfg.Shards)
	msg := &nats.Msg{
		Subject: uplinkSubject(shard, u.Name),
		Data:    u.Payload,
		Header:  nats.Header{headerModel: {u.Model}, headerHardware: {u.Hardware}},
	}
	start := time.Now()
	finish := func(s Stored, err error) {
		s.Shard = shard
		s.At = time.Now()
		c.metrics.latency.Observe(time.Since(start).Seconds())
		if err != nil {
			c.metrics.failed.With(reason(err)).Inc()
		} else {
			c.metrics.stored.With(string(u.Name.Kind)).Inc()
		}
		done(s, err)
	}
	c.send(msg, finish)
}

// send publishes a message; finish is called once, with nil, ErrFull, ErrBusy
// or ErrUnavailable.
func (c *Cluster) send(msg *nats.Msg, finish func(Stored, error)) {
	c.mu.Lock()
	if len(c.pending) >= c.cfg.MaxPending {
		c.mu.Unlock()
		finish(Stored{}, ErrBusy)
		return
	}
	c.pending[msg] = finish
	c.mu.Unlock()
	if _, err := c.uplink.PublishMsgAsync(msg); err != nil {
		c.settle(msg, Stored{}, storeError(err))
	}
}

// stored is JetStream's acknowledgement.
func (c *Cluster) stored(_ jetstream.JetStream, msg *nats.Msg, ack *jetstream.PubAck) {
	c.committed(func(err error) {
		if err == nil {
			c.isDurable(msg.Subject, ack.Sequence)
		}
		c.settle(msg, Stored{Sequence: ack.Sequence}, err)
	})
}

// isDurable notes how far a shard is on the disk.
func (c *Cluster) isDurable(subject string, sequence uint64) {
	shard, err := uplinkShard(subject)
	if err != nil {
		return // not of our making
	}
	mark := &c.durable[shard]
	for {
		old := mark.Load()
		if sequence <= old || mark.CompareAndSwap(old, sequence) {
			return
		}
	}
}

// awaitDurable waits until a message of a shard is on the disk. A group must
// not see it earlier: after a loss of power its sequence would be given to
// another message, and sequences identify messages for ever.
func (c *Cluster) awaitDurable(shard int, sequence uint64) error {
	if c.commit == nil || sequence <= c.durable[shard].Load() {
		return nil
	}
	if err := c.awaitCommit(); err != nil {
		return err
	}
	c.isDurable(uplinkSubject(shard, topics.Name{}), sequence)
	return nil
}

// committed calls done when what JetStream has acknowledged is as durable as
// the configuration asks for.
func (c *Cluster) committed(done func(error)) {
	if c.commit == nil {
		done(nil)
		return
	}
	c.commit.after(done)
}

// refused is JetStream's refusal, or its silence.
func (c *Cluster) refused(_ jetstream.JetStream, msg *nats.Msg, err error) {
	c.settle(msg, Stored{}, storeError(err))
}

// settle calls done once, whatever comes later.
func (c *Cluster) settle(msg *nats.Msg, s Stored, err error) {
	c.mu.Lock()
	done, ok := c.pending[msg]
	delete(c.pending, msg)
	c.mu.Unlock()
	if ok {
		done(s, err)
	}
}

func (c *Cluster) failPending() {
	c.mu.Lock()
	pending := c.pending
	c.pending = map[*nats.Msg]func(Stored, error){}
	c.mu.Unlock()
	for _, done := range pending {
		done(Stored{}, ErrUnavailable)
	}
}

// underWay is how many messages wait for the store.
func (c *Cluster) underWay() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// reason is the metric's label of a failure.
func reason(err error) string {
	switch {
	case errors.Is(err, ErrFull):
		return "full"
	case errors.Is(err, ErrBusy):
		return "busy"
	case errors.Is(err, ErrStale):
		return "stale"
	}
	return "unavailable"
}

func formatVersion(v int64) string { return strconv.FormatInt(v, 10) }

package mqtt

import (
	"sync"
	"time"

	"groundswell/broker/cluster"
	"groundswell/topics"

	"golang.org/x/time/rate"
)

// maxAudits is how many refusals of one connection are logged and told; all
// are counted.
const maxAudits = 20

// audit counts and logs a refusal, and tells fleetd if it was a device's.
func (b *Broker) audit(c *conn, action topics.RefusedAction, reason, topic string, err error) {
	b.metrics.refused.With(string(action), reason).Inc()
	n := c.refusals.Add(1)
	if n > maxAudits {
		return
	}
	attrs := []any{"audit", true, "action", string(action), "reason", reason, "identity", c.identity.String(), "remote", c.remote, "err", err}
	if topic != "" {
		attrs = append(attrs, "topic", clip(topic))
	}
	if n == maxAudits {
		attrs = append(attrs, "further", "not logged for this connection")
	}
	b.log.Warn("refused", attrs...)
	b.tell(c, action, reason, topic, err)
}

// tell stores a refusal in the uplink of the device whose certificate the
// client showed, where fleetd makes an audit row and an alert of it. It does
// not block, and leaves out what is above the rates: a device must not fill the
// store with what it may not do.
func (b *Broker) tell(c *conn, action topics.RefusedAction, reason, topic string, err error) {
	if c.identity.Kind != topics.PrincipalDevice {
		return
	}
	now := time.Now()
	if !b.told.admit(c.identity.Name, now) {
		b.metrics.untold.Inc()
		return
	}
	payload, encodeErr := topics.Encode(topics.Refusal{
		Schema: topics.Schema, Action: action, Reason: reason, Node: b.cfg.Node, At: now.UTC().Truncate(time.Second),
		Topic:  topics.ClipText(topic, topics.MaxRefusalText),
		Detail: topics.ClipText(err.Error(), topics.MaxRefusalText),
		Client: topics.ClipText(c.sentID, topics.MaxRefusalText),
	})
	if encodeErr != nil {
		b.log.Error("refusal cannot be encoded", "device", c.identity.Name, "err", encodeErr)
		return
	}
	u := b.uplinkOf(c, topics.Name{Kind: topics.KindRefusal, ID: c.identity.Name}, payload)
	b.store.Store(u, func(s cluster.Stored, err error) {
		if err != nil {
			b.metrics.untold.Inc()
			b.notStored.warn(b.log, "a refusal was not stored", "device", c.identity.Name, "err", err)
			return
		}
		b.routeUplink(u, s, "")
	})
}

// How many refusals fleetd is told of, in bursts and per second: per device,
// and of all together. The audit trail, where they go, is kept for ever.
const (
	tellBurst, tellRate       = 20, 1.0 / 60
	tellAllBurst, tellAllRate = 2000, 200
)

// tellings limits what fleetd is told.
type tellings struct {
	all *rate.Limiter

	mu      sync.Mutex // guards what follows
	devices map[string]*rate.Limiter
}

func newTellings() *tellings {
	return &tellings{all: rate.NewLimiter(tellAllRate, tellAllBurst), devices: map[string]*rate.Limiter{}}
}

func (t *tellings) admit(device string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.devices[device]
	if own == nil {
		own = rate.NewLimiter(tellRate, tellBurst)
		t.devices[device] = own
	}
	return own.AllowN(now, 1) && t.all.AllowN(now, 1)
}

// forget drops the limiters of devices that were refused nothing for a while.
func (t *tellings) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for device, own := range t.devices {
		if own.TokensAt(now) >= tellBurst {
			delete(t.devices, device)
		}
	}
}

package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"groundswell/broker/cluster"
	"groundswell/topics"

	"golang.org/x/sync/errgroup"
)

// buryAtOnce is how many lost connections are dealt with at once.
const buryAtOnce = 64

// testament is what a claim says about what is to be done if its node dies: tell
// that the device is lost, publish its will, let the session expire. Whoever
// carries it out writes the claim afterwards, so that, of two who try, the second
// finds it done.
type testament struct {
	Device   bool          `json:"device,omitempty"`
	Model    string        `json:"model,omitempty"`
	Hardware string        `json:"hardware,omitempty"`
	Expiry   time.Duration `json:"expiry"` // of the session
	Will     *savedWill    `json:"will,omitempty"`
}

type savedWill struct {
	Topic   string        `json:"topic"`
	Payload []byte        `json:"payload"`
	Delay   time.Duration `json:"delay"`
	Due     time.Time     `json:"due,omitzero"` // once the connection has ended
	// Of open topics only: who published it, what else it says, and its Message
	// Expiry Interval.
	Origin     string        `json:"origin,omitempty"`
	Attributes *attributes   `json:"attributes,omitempty"`
	Lifetime   time.Duration `json:"lifetime,omitempty"`
}

// testamentOf is what c leaves; w is its will as it is now.
func testamentOf(c *conn, w *will) (json.RawMessage, error) {
	t := testament{
		Device: c.identity.Kind == topics.PrincipalDevice, Model: c.identity.Model, Hardware: c.identity.Hardware, Expiry: c.params.expiry,
	}
	switch {
	case w == nil:
	case w.open != nil:
		a := attributesOf(w.open.Message)
		t.Will = &savedWill{
			Topic: w.open.Topic, Payload: w.open.Payload, Delay: w.delay, Due: w.due,
			Origin: w.open.origin, Attributes: &a, Lifetime: w.open.lifetime,
		}
	default:
		t.Will = &savedWill{Topic: w.uplink.Name.String(), Payload: w.uplink.Payload, Delay: w.delay, Due: w.due}
	}
	return json.Marshal(t)
}

// grave is a testament that is to be carried out.
type grave struct {
	client string
	claim  cluster.Claim
	due    time.Time // of its will, if that is still to come
	// written: the claim says that all is done, and only the will is not published
	// yet.
	written *testament
}

// burial is the work on the claims of one node that died.
type burial struct {
	broker *Broker
	node   string
	died   time.Time
	all    bool // of all claims; else of those of an earlier run
	listed bool // every claim was looked at: what is left is in left
	left   []grave
}

// step does what can be done now; next is when there is more, zero if nothing is
// left. After an error it is to be called again.
func (d *burial) step(ctx context.Context) (next time.Time, err error) {
	var mu sync.Mutex // guards left, failed and count
	var left []grave
	var failed error
	count := 0
	var work errgroup.Group
	work.SetLimit(buryAtOnce)
	bury := func(g grave) {
		work.Go(func() error {
			lost := g.claim.Connected
			rest, err := d.broker.execute(ctx, g, d.died)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			if rest != nil {
				left = append(left, *rest)
			}
			if lost && err == nil {
				count++
			}
			return nil
		})
	}
	known := map[string]bool{}
	for _, g := range d.left {
		known[g.client] = true
		bury(g)
	}
	if !d.listed {
		err = d.broker.store.Claims(ctx, d.all, func(client string, claim cluster.Claim) bool {
			if claim.Node == d.node && len(claim.Testament) > 0 && !known[client] {
				bury(grave{client: client, claim: claim})
			}
			return ctx.Err() == nil
		})
		d.listed = err == nil && ctx.Err() == nil
	}
	_ = work.Wait() // none returns an error
	if count > 0 {
		d.broker.log.Info("connections that ended without a word were dealt with", "clients", count, "of", d.node)
	}
	d.left = left
	for _, g := range left {
		if next.IsZero() || g.due.Before(next) {
			next = g.due
		}
	}
	return next, errors.Join(failed, err)
}

// buryOwn carries out what connections of an earlier run of this node left, until
// nothing is.
func (b *Broker) buryOwn(ctx context.Context) {
	d := &burial{broker: b, node: b.cfg.Node, died: time.Now()}
	for ctx.Err() == nil {
		next, err := d.step(ctx)
		switch {
		case err != nil:
			b.log.Error("not every connection that a killed broker left was dealt with, trying again", "err", err)
			next = time.Now().Add(time.Second)
		case next.IsZero():
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		}
	}
}

// buryDead carries out what the connections of dead nodes left, while this node
// is the one that looks after them.
func (b *Broker) buryDead(ctx context.Context) {
	type work struct {
		*burial
		next time.Time
	}
	dead := map[string]work{}
	b.store.WatchLeases(ctx, func(ctx context.Context, node string) (done bool) {
		w, known := dead[node]
		if !known {
			b.log.Error("a node is dead: its connections are reported lost", "dead", node)
			w = work{burial: &burial{broker: b, node: node, died: time.Now(), all: true}}
			dead[node] = w
		}
		if time.Now().Before(w.next) {
			return false
		}
		next, err := w.step(ctx)
		if err != nil {
			b.log.Error("not every connection of a dead node was dealt with, trying again", "dead", node, "err", err)
			return false
		}
		if w.next = next; next.IsZero() {
			delete(dead, node)
			return true
		}
		dead[node] = w
		return false
	})
}

// execute carries out one testament. rest is what is still to be done of it, also
// after an error.
//
// The claim is written before the will is published: of all who would publish it
// (the client that is back, another node) only one succeeds with that. That the
// device is lost may be told twice.
func (b *Broker) execute(ctx context.Context, g grave, died time.Time) (rest *grave, err error) {
	if time.Now().Before(g.due) {
		return &g, nil
	}
	if g.written != nil {
		if err := b.executeWill(*g.written); err != nil {
			return &g, err
		}
		return nil, nil
	}
	asFound := g
	var t testament
	if err := json.Unmarshal(g.claim.Testament, &t); err != nil {
		b.log.Error("a claim cannot be read and is passed over", "client", clip(g.client), "err", err)
		return nil, nil
	}
	if g.claim.Connected {
		if t.Device {
			if err := b.tellLost(g.client, g.claim, t); err != nil {
				return &asFound, err
			}
		}
		if t.Will != nil {
			t.Will.Due = died.Add(min(t.Will.Delay, t.Expiry))
		}
		g.claim.Connected, g.claim.Expires = false, died.Add(t.Expiry)
	}
	g.claim.Testament = nil
	dueNow := t.Will != nil && !time.Now().Before(t.Will.Due)
	if t.Will != nil && !dueNow {
		g.due = t.Will.Due
		rest = &g
		if g.claim.Testament, err = json.Marshal(t); err != nil {
			return nil, err
		}
	}
	g.claim.Revision, err = b.store.Write(ctx, g.client, g.claim)
	switch {
	case errors.Is(err, cluster.ErrTaken): // the client is back, or another was faster
		return nil, nil
	case err != nil:
		return &asFound, err
	case dueNow:
		g.written = &t
		return b.execute(ctx, g, died)
	}
	return rest, nil
}

// inheritWill publishes the will of a connection whose node has died, when its
// client is faster than those who would do so; a delayed one is cancelled when
// the session goes on. That the connection was lost need not be told any more.
func (b *Broker) inheritWill(ctx context.Context, old cluster.Claim, clean bool) {
	var t testament
	if len(old.Testament) == 0 {
		return
	}
	if err := json.Unmarshal(old.Testament, &t); err != nil || t.Will == nil || t.Will.Delay > 0 && !clean {
		return
	}
	if err := b.executeWill(t); err != nil && ctx.Err() == nil {
		b.log.Error("the will of a connection whose node died was not published", "topic", clip(t.Will.Topic), "err", err)
	}
}

// executeWill publishes the will of a testament.
func (b *Broker) executeWill(t testament) error {
	if a := t.Will.Attributes; a != nil {
		m := a.message()
		m.Topic, m.Payload = t.Will.Topic, t.Will.Payload
		return b.publishWill(&will{open: &openWill{Message: m, lifetime: t.Will.Lifetime, origin: t.Will.Origin}})
	}
	name, err := topics.Parse(t.Will.Topic)
	if err != nil {
		return err // it was checked at CONNECT
	}
	return b.publishWill(&will{uplink: cluster.Uplink{Name: name, Payload: t.Will.Payload, Model: t.Model, Hardware: t.Hardware}})
}

// tellLost stores a disconnect. A device that is back has a connection of a higher
// number, which its lost one does not touch.
func (b *Broker) tellLost(device string, claim cluster.Claim, t testament) error {
	payload, err := topics.Encode(topics.Presence{
		Schema: topics.Schema, Reason: "lost", Model: t.Model, Hardware: t.Hardware,
		Connection: claim.Connection, Node: claim.Node, At: time.Now().UTC().Truncate(time.Second),
	})
	if err != nil {
		return err
	}
	u := cluster.Uplink{Name: topics.Name{Kind: topics.KindPresence, ID: device}, Payload: payload, Model: t.Model, Hardware: t.Hardware}
	return b.storeAndWait(u)
}

// storeAndWait stores a report about a client and hands it on.
func (b *Broker) storeAndWait(u cluster.Uplink) error {
	result := make(chan error, 1)
	b.store.Store(u, func(s cluster.Stored, err error) {
		if err == nil {
			b.routeUplink(u, s, "")
		}
		result <- err
	})
	return <-result
}

// fence ends every connection: this node cannot say any more whose they are.
func (b *Broker) fence() {
	for _, c := range b.live(nil) {
		c.disconnect(codeBusy, "no-quorum")
	}
}

package publish

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"time"

	"groundswell/fleetd/store"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// destination is a region, with a connection of its own: the broker acknowledges in
// order, so on a shared one a region that does not answer would hold up the others.
type destination struct {
	region string
	own    bool // that of the broker; others it forwards to
	client *mqttclient.Client
	lanes  []*lane
}

// lane is a part of a region's outbox that does not wait for the others.
type lane struct {
	kinds []topics.Kind
	wake  chan struct{} // capacity 1: several notices are one
}

func (p *Publisher) newDestination(region string, index int) (*destination, error) {
	d := &destination{region: region, own: index == 0, lanes: []*lane{
		{[]topics.Kind{topics.KindManifest, topics.KindCommand}, make(chan struct{}, 1)},
		{[]topics.Kind{topics.KindAssignment}, make(chan struct{}, 1)},
	}}
	settings := p.connection(p.cfg.ClientID)
	if !d.own {
		settings.ClientID += fmt.Sprintf("-r%d", index)
		settings.AckTimeout = forwardTimeout
	}
	settings.OnUp = func(context.Context, *mqttclient.Client, bool) error {
		d.notice()
		if d.own {
			select {
			case p.up <- struct{}{}:
			default:
			}
		}
		return nil
	}
	var err error
	d.client, err = mqttclient.New(settings)
	return d, err
}

func (d *destination) notice() {
	for _, l := range d.lanes {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// drive drains a lane whenever there may be something in it.
func (p *Publisher) drive(ctx context.Context, d *destination, l *lane) {
	refusals := 0 // windows in a row that another region took nothing of
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-time.After(p.cfg.Poll/2 + mathrand.N(p.cfg.Poll)):
		}
		for ctx.Err() == nil && d.client.Connected() {
			n, taken, err := p.drain(ctx, d, l)
			if err != nil {
				if ctx.Err() == nil {
					p.cfg.Log.Error("outbox not drained, tries again", "err", err)
				}
				break
			}
			if n == 0 {
				break
			}
			if taken > 0 || d.own {
				refusals = 0
				continue
			}
			// The region takes nothing: all its rows wait, not only those that were tried.
			refusals++
			pause(ctx, min(delay(refusals), regionPause))
		}
	}
}

// drain publishes what is due, at most a window of it, and reports how many rows it
// found, and how many of them the region took.
func (p *Publisher) drain(ctx context.Context, d *destination, l *lane) (found, taken int, err error) {
	rows, err := p.cfg.Store.ClaimOutbox(ctx, d.region, l.kinds, window, claimFor)
	if err != nil {
		return 0, 0, err
	}
	errs := make([]error, len(rows))
	finished := make([]bool, len(rows))
	var under sync.WaitGroup
	for i, row := range rows {
		under.Go(func() { finished[i], errs[i] = p.publish(ctx, d, row) })
	}
	under.Wait()
	var done []store.OutboxRow
	for i, row := range rows {
		if finished[i] {
			done = append(done, row)
		}
	}
	// Also at the end: what the broker has acknowledged need not go out again.
	note, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return len(rows), len(done), errors.Join(append(errs, p.cfg.Store.Published(note, done...))...)
}

// publish brings one row to the broker, and reports whether it is finished
// with. Its error is one of the database; what the broker does not take is given
// back to the outbox.
func (p *Publisher) publish(ctx context.Context, d *destination, row store.OutboxRow) (finished bool, err error) {
	m := mqttclient.Publication{Topic: row.Topic, Payload: row.Payload, QoS: 1}
	switch {
	case row.Payload == nil:
		return true, nil // what it was about is gone
	case row.Kind == topics.KindCommand:
		if m.Expiry = time.Until(row.ExpiresAt); m.Expiry <= 0 {
			return true, nil // nobody needs it any more
		}
	default:
		m.Retain = true
		m.Properties = []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(row.Version, 10)}}
	}
	if !d.own {
		m.Properties = append(m.Properties, mqttclient.Property{Key: topics.PropRegion, Value: d.region})
	}
	err = d.client.Publish(ctx, m)
	if err == nil {
		p.published.Add(1)
		return true, nil
	}
	if ctx.Err() != nil {
		// It may be there or not: the claim runs out, and it goes out again.
		return false, ctx.Err()
	}
	p.failed.Add(1)
	var refused *mqttclient.RefusedError
	if errors.As(err, &refused) && refused.Code == codeStale && m.Retain {
		if version, ok := refused.Property(topics.PropVersion); ok || d.own {
			return false, p.overtake(ctx, row, version)
		}
	}
	p.cfg.Log.Warn("not published, tries again", "region", d.region, "topic", row.Topic, "version", row.Version, "attempts", row.Attempts, "err", err)
	wait := delay(row.Attempts)
	if !d.own {
		wait = min(wait, regionPause) // the lane pauses, too
	}
	if refused == nil {
		wait = 0 // the connection went; it counts when it is back
	}
	return false, p.cfg.Store.NotPublished(ctx, row, wait, err.Error())
}

// delay is how long to wait after so many attempts.
func delay(attempts int) time.Duration {
	return min(100*time.Millisecond<<min(attempts, 10), 30*time.Second)
}

// codeStale is how the broker refuses a version that is not above the retained
// one, when the bytes differ.
const codeStale = 0x83

// overtake has a row signed anew above what the region's broker holds. retained is
// the version that it named; one that named none is read.
func (p *Publisher) overtake(ctx context.Context, row store.OutboxRow, retained string) error {
	version, err := strconv.ParseInt(retained, 10, 64)
	if err != nil {
		held, err := p.retained(ctx, row.Topic)
		if err != nil {
			p.cfg.Log.Warn("refused as stale, but what the broker holds cannot be read; tries again", "topic", row.Topic, "err", err)
			return p.cfg.Store.NotPublished(ctx, row, time.Second, err.Error())
		}
		version = row.Version
		if h, ok := held[row.Topic]; ok {
			version = h.version
		}
	}
	p.cfg.Log.Warn("the broker is ahead, signing anew above it", "region", row.Region, "topic", row.Topic, "version", row.Version, "retained", version)
	p.superseded.Add(1)
	return p.cfg.Store.Supersede(ctx, row.Kind, row.ID, version)
}

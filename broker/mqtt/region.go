package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"groundswell/broker/cluster"
	"groundswell/broker/session"
	"groundswell/topics"

	"github.com/mochi-mqtt/server/v2/packets"
)

// errRegion: who may not name a region does.
var errRegion = errors.New("only a service may publish to a region")

// regionOf reads topics.PropRegion: the region that a publication is for, "" for this
// one.
func (b *Broker) regionOf(pk *packets.Packet) (region string, err error) {
	count := 0
	for _, p := range pk.Properties.User {
		if p.Key == topics.PropRegion {
			region = p.Val
			count++
		}
	}
	if count > 1 || count == 1 && !topics.ValidID(region) {
		return "", fmt.Errorf("user property %s: %q, %d times: is no region", topics.PropRegion, clip(region), count)
	}
	if region == b.store.Region() {
		region = ""
	}
	return region, nil
}

// put stores a retained message where it is meant to be.
func (b *Broker) put(region string, r cluster.Retained, done func(error)) {
	if region == "" {
		b.store.Put(r, done)
		return
	}
	b.store.Forward(region, cluster.Publication{Name: r.Name, Payload: r.Payload, Version: r.Version, Origin: r.Origin},
		func(_ cluster.Outcome, err error) { done(err) })
}

// forwardCommand has a command stored in another region.
func (b *Broker) forwardCommand(c *conn, region string, name topics.Name, m cluster.Message, answer answerFunc) {
	p := cluster.Publication{Name: name, Payload: m.Payload, Attributes: m.Attributes, Keep: m.Keep, Origin: m.Origin}
	b.store.Forward(region, p, func(outcome cluster.Outcome, err error) {
		switch {
		case err != nil:
			b.notPublished(c, name.String(), err, answer)
		case outcome == cluster.OutcomeNobody:
			answer(codeNobody, "")
		default:
			answer(codeStored, "")
		}
	})
}

// notPublished answers a publication that was not stored where it was meant to be.
// Never a success; 0x97 when it is worth trying again.
func (b *Broker) notPublished(c *conn, topic string, err error, answer answerFunc) {
	var stale *cluster.StaleError
	switch {
	case errors.As(err, &stale):
		b.metrics.refused.With("publish", "stale").Inc()
		b.log.Warn("stale retained message refused", "topic", topic, "version", stale.Version, "retained", stale.Retained, "client", c.client.id)
		answer(codeStale, stale.Error(), session.Property{Key: topics.PropVersion, Value: strconv.FormatInt(stale.Retained, 10)})
	case errors.Is(err, cluster.ErrRegion), errors.Is(err, cluster.ErrForward):
		b.log.Warn("a publication for another region is refused", "topic", topic, "client", c.client.id, "err", err)
		answer(codeImpossible, err.Error())
	default:
		b.storeFailed(c, topic, err, answer)
	}
}

// answerForwards stores what other regions send here, under the same rules as what a
// service publishes here.
func (b *Broker) answerForwards(ctx context.Context) {
	err := b.store.AnswerForwards(ctx, func(p cluster.Publication, done func(cluster.Outcome, error)) {
		if err := checkForwarded(p); err != nil {
			b.log.Error("a publication from another region is refused", "topic", p.Name.String(), "err", err)
			done("", err)
			return
		}
		if p.Name.Kind.Retained() {
			r := cluster.Retained{Name: p.Name, Payload: p.Payload, Version: p.Version, Origin: p.Origin}
			b.store.Put(r, func(err error) { done(cluster.OutcomeStored, err) })
			return
		}
		outcome := cluster.OutcomeStored
		if !b.awaited(p.Name) {
			outcome = cluster.OutcomeNobody
		}
		keep := min(p.Keep, b.cfg.Limits.MaxSessionExpiry)
		b.fleet.log.Append(cluster.Message{Topic: p.Name.String(), Payload: p.Payload, Attributes: p.Attributes, Origin: p.Origin, Keep: keep},
			func(_ uint64, err error) { done(outcome, err) })
	})
	if err != nil {
		b.log.Error("nothing is taken from other regions", "err", err)
	}
}

func checkForwarded(p cluster.Publication) error {
	var err error
	switch {
	case p.Name.Kind == topics.KindAssignment && len(p.Payload) > 0:
		_, err = assignedCohorts(p.Payload)
	case !p.Name.Kind.Retained():
		_, err = fromStore(cluster.Message{Attributes: p.Attributes})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", cluster.ErrForward, err)
	}
	return nil
}

// withoutRegion is what a command's device is not told.
func withoutRegion(properties []session.Property) (rest []session.Property) {
	for _, p := range properties {
		if p.Key != topics.PropRegion {
			rest = append(rest, p)
		}
	}
	return rest
}

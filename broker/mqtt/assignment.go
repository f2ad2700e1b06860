package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"groundswell/broker/cluster"
	"groundswell/topics"
)

// cohorts is what a device's retained assignment says about where it belongs.
type cohorts struct {
	known    bool
	revision uint64
	names    map[string]bool
}

// assignedCohorts reads the cohorts out of a signed assignment. The signature
// is the device's business; the broker only keeps others from reading along.
// Fields that it does not know do not matter to it.
func assignedCohorts(payload []byte) (map[string]bool, error) {
	if len(payload) > topics.MaxAssignment {
		return nil, fmt.Errorf("assignment: %w: %d bytes", topics.ErrTooLarge, len(payload))
	}
	var envelope struct {
		Signed struct {
			Body struct {
				Cohorts []string `json:"cohorts"`
			} `json:"groundswell"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(payload, &envelope); err != nil {
		return nil, fmt.Errorf("assignment: %w", err)
	}
	list := envelope.Signed.Body.Cohorts
	if len(list) > topics.MaxCohorts {
		return nil, fmt.Errorf("assignment: signed.groundswell.cohorts: names %d, at most %d", len(list), topics.MaxCohorts)
	}
	names := make(map[string]bool, len(list))
	for i, name := range list {
		if err := topics.CheckID(fmt.Sprintf("signed.groundswell.cohorts[%d]", i), name); err != nil {
			return nil, fmt.Errorf("assignment: %w", err)
		}
		names[name] = true
	}
	return names, nil
}

// cohortsOf answers whether the client is in a cohort, as its retained
// assignment says now. Only a device that asks for a manifest needs it.
func (b *Broker) cohortsOf(c *conn, filter string) (func(string) bool, error) {
	if c.identity.Kind != topics.PrincipalDevice {
		return nil, nil
	}
	if name, err := topics.Parse(filter); err != nil || name.Kind != topics.KindManifest {
		return nil, nil
	}
	// Read anew each time: the assignment may have come a moment ago, and be
	// still on its way to reassigned.
	ctx, cancel := context.WithTimeout(b.life, storeWait)
	defer cancel()
	r, err := b.store.Get(ctx, topics.Name{Kind: topics.KindAssignment, ID: c.identity.Name})
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return nil, err
	}
	cl := c.client
	cl.mu.Lock()
	defer cl.mu.Unlock()
	b.learn(cl, r)
	names := cl.cohorts.names // replaced, never changed
	return func(cohort string) bool { return names[cohort] }, nil
}

// learn takes over an assignment unless a newer one is known. An assignment
// that cannot be read puts the device into no cohort. The caller holds cl.mu.
func (b *Broker) learn(cl *client, r cluster.Retained) {
	if cl.cohorts.known && r.Revision <= cl.cohorts.revision {
		return
	}
	cl.cohorts = cohorts{known: true, revision: r.Revision}
	if len(r.Payload) == 0 {
		return
	}
	names, err := assignedCohorts(r.Payload)
	if err != nil {
		b.metrics.badPayload.Inc()
		b.log.Error("a retained assignment cannot be read, the device gets no manifest", "device", cl.id, "err", err)
		return
	}
	cl.cohorts.names = names
}

// reassigned ends the subscriptions of a device to the manifests of cohorts
// that it has left.
func (b *Broker) reassigned(r cluster.Retained) {
	b.mu.Lock()
	cl := b.clients[r.Name.ID] // a device's client id is its id
	b.mu.Unlock()
	if cl == nil {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.identity.Kind != topics.PrincipalDevice {
		return
	}
	b.learn(cl, r)
	var left []string
	for sub := range cl.session.Subscriptions {
		if name, err := topics.Parse(sub.Filter); err == nil && name.Kind == topics.KindManifest && !cl.cohorts.names[name.ID] {
			left = append(left, sub.Filter)
		}
	}
	for _, filter := range left {
		b.remove(cl, filter)
		b.metrics.refused.With("subscribe", "left-cohort").Inc()
		b.log.Info("subscription ended: the device has left the cohort", "device", cl.id, "topic", filter)
	}
}

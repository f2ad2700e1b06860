package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	leaseStream = "leases"
	leasePrefix = "lease."
	leaseBytes  = 1 << 20 // one record a node
	// renewEvery is how often a node says that it lives, and how often it looks
	// after the others.
	renewEvery = 2 * time.Second
	// holdFor is how long after its last renewal a node may act as the owner of
	// its sessions, and deadAfter how long after it others take it for dead. The
	// difference is what ending its connections may take. While the nodes elect a
	// leader, for up to ten seconds after one was lost, nobody can renew: that must
	// not count.
	holdFor   = 20 * time.Second
	deadAfter = 30 * time.Second
)

func (c *Cluster) openLeases(ctx context.Context) (err error) {
	c.leases, err = c.stream(ctx, jetstream.StreamConfig{
		Name: leaseStream, Subjects: []string{leasePrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: leaseBytes,
	})
	return err
}

// HoldLease renews the node's lease until ctx ends. When that has failed for too
// long, lost is called: the node must end its connections, because others will
// take it for dead; or have done so, while it was suspended.
func (c *Cluster) HoldLease(ctx context.Context, lost func()) {
	if !c.Clustered() {
		return // nobody asks
	}
	renewed, told := time.Now(), false
	for ctx.Err() == nil {
		began := time.Now()
		attempt, cancel := context.WithTimeout(ctx, renewEvery)
		_, err := c.admin.PublishMsg(attempt, &nats.Msg{Subject: leasePrefix + c.cfg.Node})
		cancel()
		if ctx.Err() == nil && !told && longer(renewed, holdFor) {
			c.log.Error("the lease was not renewed for too long: every connection ends", "err", err)
			told = true
			lost()
		}
		if err == nil {
			renewed, told = began, false
		}
		pause(ctx, time.Until(began.Add(renewEvery)))
	}
}

// longer reports whether more than d has passed since t, by either clock: the
// monotonic one stands still while a machine is suspended, the other may be set.
func longer(t time.Time, d time.Duration) bool {
	now := time.Now()
	return now.Sub(t) > d || now.Round(0).Sub(t.Round(0)) > d
}

// WatchLeases calls dead for every node whose lease is not renewed any more,
// again and again until that returns true; then the node is forgotten. Only one
// node of the cluster does so at a time: the one that leads the stream.
func (c *Cluster) WatchLeases(ctx context.Context, dead func(ctx context.Context, node string) bool) {
	if !c.Clustered() {
		return
	}
	type lease struct {
		sequence uint64
		since    time.Time // when this node saw it first: no clock is compared with another's
	}
	seen := map[string]lease{}
	for ; ctx.Err() == nil; pause(ctx, renewEvery) {
		attempt, cancel := context.WithTimeout(ctx, c.cfg.StoreTimeout)
		leases, err := c.leaseSequences(attempt)
		cancel()
		if err != nil || leases == nil {
			clear(seen) // whoever leads next begins anew
			continue
		}
		for node, sequence := range leases {
			if seen[node].sequence != sequence {
				seen[node] = lease{sequence, time.Now()}
				continue
			}
			if node == c.cfg.Node || time.Since(seen[node].since) < deadAfter || !dead(ctx, node) {
				continue
			}
			// A renewal since then stays.
			if err := c.leases.Purge(ctx, jetstream.WithPurgeSubject(leasePrefix+node), jetstream.WithPurgeSequence(sequence+1)); err != nil {
				c.log.Warn("a dead node is not forgotten yet", "dead", node, "err", err)
				continue
			}
			delete(seen, node)
		}
	}
}

// leaseSequences returns the newest renewal of every node; nil on a node that does
// not lead.
func (c *Cluster) leaseSequences(ctx context.Context) (map[string]uint64, error) {
	info, err := c.leases.Info(ctx, jetstream.WithSubjectFilter(leasePrefix+">"))
	if err != nil {
		return nil, err
	}
	if info.Cluster == nil || info.Cluster.Leader != c.cfg.Node {
		return nil, nil
	}
	sequences := map[string]uint64{}
	for subject := range info.State.Subjects {
		raw, err := c.leases.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sequences[strings.TrimPrefix(subject, leasePrefix)] = raw.Sequence
	}
	return sequences, nil
}

// Claims hands the claims that were there at Open to yield, or, with all, every
// claim there is, until it returns false.
func (c *Cluster) Claims(ctx context.Context, all bool, yield func(client string, claim Claim) bool) error {
	info, err := c.sessions.Info(ctx)
	if err != nil {
		return fmt.Errorf("claims: %w: %w", ErrUnavailable, err)
	}
	last := info.State.LastSeq
	if !all {
		last = c.claimed
	}
	return lastOfEach(ctx, c.sessions, ">", last, func(msg *jetstream.RawStreamMsg) bool {
		client, claim, err := claimMessage(msg.Subject, msg.Data, msg.Sequence)
		if err != nil {
			c.log.Error("a claim cannot be read and is passed over", "subject", msg.Subject, "err", err)
			return true
		}
		return client == nil || yield(*client, claim)
	})
}

package ingest

import (
	"context"

	"groundswell/fleetd/store"
	"groundswell/topics"
)

// Uplink is the registry as this package needs it.
type Uplink interface {
	ApplyUplink(ctx context.Context, batch []store.UplinkRecord) ([]store.UplinkResult, error)
}

// Registry is the group that fills PostgreSQL.
type Registry struct{ group *group }

// NewRegistry does no I/O.
func NewRegistry(cfg Config, to Uplink) (*Registry, error) {
	dead, peers := cfg.Metrics.dead.With(topics.GroupRegistry), cfg.Metrics.peers
	g, err := newGroup(topics.GroupRegistry, cfg, func(ctx context.Context, batch []store.UplinkRecord) error {
		results, err := to.ApplyUplink(ctx, batch)
		if err != nil {
			return err
		}
		for i, r := range results {
			if r.Outcome == store.Dead {
				dead.Inc()
				cfg.Log.Warn("report can never be stored", "group", topics.GroupRegistry, "device", r.Device, "shard", batch[i].Shard, "sequence", batch[i].Sequence, "err", r.Reason)
			}
			peers.With("wrong").Add(float64(r.PeerFaults.Wrong))
			peers.With("failed").Add(float64(r.PeerFaults.Failed))
			peers.With("away").Add(float64(r.PeerFaults.Away))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Registry{g}, nil
}

// Run stores reports until ctx ends.
func (r *Registry) Run(ctx context.Context) error { return r.group.run(ctx) }

// Ready is nil while reports flow.
func (r *Registry) Ready() error { return r.group.ready() }

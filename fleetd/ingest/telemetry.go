package ingest

import (
	"context"
	"log/slog"
	"time"

	"groundswell/fleetd/ingest/influx"
	"groundswell/fleetd/store"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Points is where telemetry goes.
type Points interface {
	Write(ctx context.Context, points []influx.Point) ([]influx.Rejected, error)
}

// Shelf is what telemetry needs of PostgreSQL. It does without when that is
// down.
type Shelf interface {
	// Regions answers for the devices that have one.
	Regions(ctx context.Context, devices []string) (map[string]string, error)
	DeadLetter(ctx context.Context, consumer string, r store.UplinkRecord, reason string) error
}

// shelfTimeout bounds what telemetry waits for PostgreSQL, per batch.
const shelfTimeout = time.Second

// Telemetry is the group that fills InfluxDB.
type Telemetry struct {
	group   *group
	to      Points
	shelf   Shelf
	regions *regions
	points  *pointMaker
	dead    ops.Counter
	log     *slog.Logger
}

// NewTelemetry does no I/O.
func NewTelemetry(cfg Config, to Points, shelf Shelf) (*Telemetry, error) {
	t := &Telemetry{
		to: to, shelf: shelf, regions: newRegions(shelf), points: newPointMaker(),
		dead: cfg.Metrics.dead.With(topics.GroupTelemetry), log: cfg.Log.With("group", topics.GroupTelemetry),
	}
	g, err := newGroup(topics.GroupTelemetry, cfg, t.store)
	t.group = g
	return t, err
}

// Run stores points until ctx ends.
func (t *Telemetry) Run(ctx context.Context) error { return t.group.run(ctx) }

// Ready is nil while points flow.
func (t *Telemetry) Ready() error { return t.group.ready() }

// store makes points of what decodes. What does not is a dead letter of the
// registry already.
func (t *Telemetry) store(ctx context.Context, batch []store.UplinkRecord) error {
	bounded, cancel := context.WithTimeout(ctx, shelfTimeout)
	regions := t.regions.of(bounded, batch)
	cancel()
	var points []influx.Point
	var from []store.UplinkRecord
	for _, r := range batch {
		if p, ok := t.points.make(r, regions); ok {
			points, from = append(points, p), append(from, r)
		}
	}
	rejected, err := t.to.Write(ctx, points)
	if err != nil {
		return err
	}
	for _, r := range rejected {
		t.quarantine(ctx, from[r.Index], r.Reason)
	}
	return nil
}

func (t *Telemetry) quarantine(ctx context.Context, r store.UplinkRecord, reason string) {
	t.dead.Inc()
	bounded, cancel := context.WithTimeout(ctx, shelfTimeout)
	defer cancel()
	if err := t.shelf.DeadLetter(bounded, topics.GroupTelemetry, r, reason); err != nil {
		t.log.Error("point can never be stored, and was not kept", "topic", r.Topic, "shard", r.Shard, "sequence", r.Sequence, "reason", reason, "err", err)
		return
	}
	t.log.Warn("point can never be stored", "topic", r.Topic, "shard", r.Shard, "sequence", r.Sequence, "reason", reason)
}

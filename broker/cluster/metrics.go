package cluster

import (
	"context"
	"time"

	"groundswell/internal/ops"
)

type metrics struct {
	stored   ops.CounterVec
	failed   ops.CounterVec
	latency  ops.Histogram
	backlog  ops.GaugeVec
	retained ops.Gauge
	waiting  ops.Gauge
	behind   ops.Gauge

	backups    ops.CounterVec
	lastBackup ops.Gauge
	forwarded  ops.CounterVec
	taken      ops.CounterVec
}

func newMetrics(reg *ops.Registry, c *Cluster) metrics {
	reg.NewGaugeFunc("broker_store_pending", "Messages under way to the store.",
		func() float64 { return float64(c.underWay()) })
	reg.NewGaugeFunc("broker_regions_connected", "Other regions that this node has a gateway connection to.",
		func() float64 { return float64(c.regionsConnected()) })
	return metrics{
		stored:   reg.NewCounterVec("broker_stored_total", "Messages stored, by kind of topic.", "kind"),
		failed:   reg.NewCounterVec("broker_store_failed_total", "Messages that were not stored, by reason.", "reason"),
		latency:  reg.NewHistogram("broker_store_seconds", "From handing a message to the store until its answer.", nil),
		backlog:  reg.NewGaugeVec("broker_group_backlog", "Messages that a group has not handled.", "group"),
		retained: reg.NewGauge("broker_retained", "Topics with a retained message."),
		waiting:  reg.NewGauge("broker_inbox", "Messages that wait for clients in the inbox."),
		behind:   reg.NewGauge("broker_replicas_behind", "Copies, on other nodes, of the streams that this node leads, that are not complete. While the sum over all nodes is 0, the loss of one disk costs nothing."),

		backups:    reg.NewCounterVec("broker_backups_total", "Backups of the store, by outcome.", "outcome"),
		lastBackup: reg.NewGauge("broker_backup_timestamp_seconds", "When the last backup of this process was begun; 0: none yet."),
		forwarded:  reg.NewCounterVec("broker_forwarded_total", "Publications for other regions, by region and outcome (stored, nobody: stored, but nobody is subscribed; stale, full, busy, refused, unavailable).", "region", "outcome"),
		taken:      reg.NewCounterVec("broker_forwards_taken_total", "Publications that other regions forwarded to this node, by outcome.", "outcome"),
	}
}

// Measure keeps the gauges up to date until ctx ends.
func (c *Cluster) Measure(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		for _, g := range c.Groups() {
			if n, err := g.Backlog(ctx); err == nil { // else readiness says it
				c.metrics.backlog.With(g.Name).Set(float64(n))
			}
		}
		if n, err := c.RetainedCount(ctx); err == nil {
			c.metrics.retained.Set(float64(n))
		}
		if n, err := c.inbox.Waiting(ctx); err == nil {
			c.metrics.waiting.Set(float64(n))
		}
		if n, err := c.replicasBehind(ctx); err == nil {
			c.metrics.behind.Set(float64(n))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// replicasBehind counts, of the streams that this node leads, the copies on other
// nodes that are not complete.
func (c *Cluster) replicasBehind(ctx context.Context) (n int, err error) {
	if !c.Clustered() {
		return 0, nil
	}
	streams := c.admin.ListStreams(ctx)
	for info := range streams.Info() {
		if info.Cluster == nil || info.Cluster.Leader != c.cfg.Node {
			continue
		}
		for _, replica := range info.Cluster.Replicas {
			if !replica.Current || replica.Offline {
				n++
			}
		}
	}
	return n, streams.Err()
}

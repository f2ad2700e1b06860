package artifact

import "groundswell/internal/ops"

// kind is what a download is of.
type kind string

const (
	artifacts kind = "artifact"
	packs     kind = "pack"
	indexes   kind = "index"
	metadata  kind = "metadata"
)

// Metrics are what operators see of the downloads of a fleetd.
type Metrics struct {
	bytes, answers, refused ops.CounterVec
	running                 ops.GaugeVec
	waiting                 ops.Gauge
	waited                  ops.Counter
}

// NewMetrics registers them.
func NewMetrics(registry *ops.Registry) *Metrics {
	return &Metrics{
		bytes:   registry.NewCounterVec("groundswell_download_bytes_total", "Bytes of bodies sent to devices and caches.", "kind", "status"),
		answers: registry.NewCounterVec("groundswell_downloads_total", "Requests of devices and caches that were answered.", "kind", "status"),
		refused: registry.NewCounterVec("groundswell_downloads_refused_total", "Downloads refused: busy, device (too many of one), signature, expired, ranges, storage.", "kind", "reason"),
		running: registry.NewGaugeVec("groundswell_downloads_running", "Downloads that are running.", "kind"),
		waiting: registry.NewGauge("groundswell_downloads_waiting", "Downloads that wait for the cap on bytes per second."),
		waited:  registry.NewCounter("groundswell_downloads_waited_seconds_total", "Time that downloads waited for it, added up."),
	}
}

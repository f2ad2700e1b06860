// Package ops is what an operator's tools see of a process: counters, gauges
// and histograms at /metrics, "is it alive" at /healthz, and at /readyz either
// 200 or 503 with a JSON list that names what is missing.
//
// It is the only package that knows Prometheus; others hold its small types.
// A process has one Registry and passes it on; there are no globals.
package ops

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Registry holds a process's metrics. Registering one name twice panics: it is
// a mistake in the program, never in its input.
type Registry struct{ reg *prometheus.Registry }

// NewRegistry returns a registry that already holds the Go runtime's and the
// process's own metrics.
func NewRegistry() *Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Registry{reg}
}

// Handler serves the metrics in Prometheus' text format.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{})
}

// Counter only goes up.
type Counter struct{ c prometheus.Counter }

// Inc adds one.
func (c Counter) Inc() { c.c.Inc() }

// Add adds n, which must not be negative.
func (c Counter) Add(n float64) { c.c.Add(n) }

// Gauge goes up and down.
type Gauge struct{ g prometheus.Gauge }

func (g Gauge) Set(v float64) { g.g.Set(v) }
func (g Gauge) Add(v float64) { g.g.Add(v) }
func (g Gauge) Inc()          { g.g.Inc() }
func (g Gauge) Dec()          { g.g.Dec() }

// Histogram counts observations in buckets.
type Histogram struct{ o prometheus.Observer }

// Observe records one value, in the unit that the metric's name says.
func (h Histogram) Observe(v float64) { h.o.Observe(v) }

// CounterVec is a counter per combination of label values. Label values must
// come from a small fixed set, never from a device.
type CounterVec struct{ v *prometheus.CounterVec }

// With returns the counter for the label values, in the order of the names.
func (v CounterVec) With(values ...string) Counter { return Counter{v.v.WithLabelValues(values...)} }

// GaugeVec is a gauge per combination of label values.
type GaugeVec struct{ v *prometheus.GaugeVec }

// With returns the gauge for the label values, in the order of the names.
func (v GaugeVec) With(values ...string) Gauge { return Gauge{v.v.WithLabelValues(values...)} }

// HistogramVec is a histogram per combination of label values.
type HistogramVec struct{ v *prometheus.HistogramVec }

// With returns the histogram for the label values, in the order of the names.
func (v HistogramVec) With(values ...string) Histogram {
	return Histogram{v.v.WithLabelValues(values...)}
}

// NewCounter registers a counter; by convention its name ends in _total.
func (r *Registry) NewCounter(name, help string) Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.reg.MustRegister(c)
	return Counter{c}
}

// NewCounterVec registers a counter with labels.
func (r *Registry) NewCounterVec(name, help string, labels ...string) CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	r.reg.MustRegister(v)
	return CounterVec{v}
}

// NewCounterFunc registers a counter whose value is read when it is scraped.
func (r *Registry) NewCounterFunc(name, help string, read func() float64) {
	r.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read))
}

// NewGauge registers a gauge.
func (r *Registry) NewGauge(name, help string) Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	r.reg.MustRegister(g)
	return Gauge{g}
}

// NewGaugeVec registers a gauge with labels.
func (r *Registry) NewGaugeVec(name, help string, labels ...string) GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	r.reg.MustRegister(v)
	return GaugeVec{v}
}

// NewGaugeFunc registers a gauge whose value is read when it is scraped.
func (r *Registry) NewGaugeFunc(name, help string, read func() float64) {
	r.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// SecondsBuckets suit latencies from half a millisecond to half a minute.
var SecondsBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .2, .5, 1, 2.5, 5, 10, 30}

// NewHistogram registers a histogram; nil buckets mean SecondsBuckets.
func (r *Registry) NewHistogram(name, help string, buckets []float64) Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: orSeconds(buckets)})
	r.reg.MustRegister(h)
	return Histogram{h}
}

// NewHistogramVec registers a histogram with labels; nil buckets mean
// SecondsBuckets.
func (r *Registry) NewHistogramVec(name, help string, buckets []float64, labels ...string) HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: orSeconds(buckets)}, labels)
	r.reg.MustRegister(v)
	return HistogramVec{v}
}

func orSeconds(buckets []float64) []float64 {
	if buckets == nil {
		return SecondsBuckets
	}
	return buckets
}

package link

import "groundswell/internal/ops"

// Metrics of the session. The zero value counts nothing.
type Metrics struct {
	accepted, refused, sent, dropped *ops.CounterVec
	checkIns                         *ops.Histogram
}

// NewMetrics registers them.
func NewMetrics(r *ops.Registry) Metrics {
	accepted := r.NewCounterVec("agent_messages_accepted_total", "Messages that verified, by kind.", "kind")
	refused := r.NewCounterVec("agent_messages_refused_total", "Messages that did not verify, by kind.", "kind")
	sent := r.NewCounterVec("agent_reports_sent_total", "Reports that the broker acknowledged, by kind.", "kind")
	dropped := r.NewCounterVec("agent_reports_dropped_total", "Reports that the broker will never take, by kind.", "kind")
	checkIns := r.NewHistogram("agent_check_in_seconds", "From CONNECT to the manifest of every assigned cohort.", nil)
	return Metrics{&accepted, &refused, &sent, &dropped, &checkIns}
}

func count(v *ops.CounterVec, kind string) {
	if v != nil {
		v.With(kind).Inc()
	}
}

package mqtt

import "groundswell/internal/ops"

type metrics struct {
	accepts     ops.Counter
	handshakes  ops.CounterVec
	connects    ops.CounterVec
	disconnects ops.CounterVec
	refused     ops.CounterVec
	untold      ops.Counter
	slow        ops.Counter
	dropped     ops.CounterVec
	delivered   ops.Counter
	group       ops.CounterVec
	panics      ops.Counter
	badPayload  ops.Counter
}

func newMetrics(reg *ops.Registry, b *Broker) metrics {
	reg.NewGaugeFunc("broker_connections", "Connections that have sent a good CONNECT.",
		func() float64 { n, _ := b.counts(); return float64(n) })
	reg.NewGaugeFunc("broker_sessions", "Sessions, with or without a connection.",
		func() float64 { _, n := b.counts(); return float64(n) })
	return metrics{
		accepts:     reg.NewCounter("broker_accept_errors_total", "Times that no connection could be accepted, for want of file descriptors for one."),
		handshakes:  reg.NewCounterVec("broker_handshakes_failed_total", "Connections that ended before a good handshake (of TLS, and of WebSocket), by reason.", "reason"),
		connects:    reg.NewCounterVec("broker_connects_total", "CONNECT packets, by outcome.", "outcome"),
		disconnects: reg.NewCounterVec("broker_disconnects_total", "Connections that ended, by reason.", "reason"),
		refused:     reg.NewCounterVec("broker_refused_total", "What was refused to clients (connect, publish, subscribe, packet, session), by action and reason.", "action", "reason"),
		untold:      reg.NewCounter("broker_refusals_untold_total", "Refusals of devices that were logged, but left out of what fleetd is told, or not stored."),
		slow:        reg.NewCounter("broker_slow_readers_closed_total", "Clients closed because they did not read."),
		dropped:     reg.NewCounterVec("broker_dropped_total", "Messages that were not queued for a client, by reason.", "reason"),
		delivered:   reg.NewCounter("broker_delivered_total", "Messages sent to clients, repetitions included."),
		group:       reg.NewCounterVec("broker_group_deliveries_total", "Messages of a group, by what became of the delivery.", "group", "outcome"),
		panics:      reg.NewCounter("broker_decoder_panics_total", "Connections that ended because a malformed packet made the decoder panic."),
		badPayload:  reg.NewCounter("broker_malformed_assignments_total", "Assignments that could not be read."),
	}
}

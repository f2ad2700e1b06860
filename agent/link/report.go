package link

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"groundswell/agent/journal"
	"groundswell/internal/backoff"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// Heartbeat queues a heartbeat; it replaces one that waits. A disk that takes no
// writes keeps it from nobody, and is told of in a log: once, until it has
// mended.
func (l *Link) Heartbeat() {
	h := l.heartbeat()
	if err := l.journal.Hold(func(r *journal.Record) error {
		h.Command = r.Command
		return r.QueueHeartbeat(h)
	}); err != nil {
		l.log.Error("heartbeat cannot be queued", "err", err)
	}
	broken := l.journal.Broken()
	l.mu.Lock()
	tell := broken != nil && !l.toldBroken
	l.toldBroken = broken != nil
	l.mu.Unlock()
	if !tell {
		return
	}
	text := fmt.Sprintf("journal cannot be written, nothing is started or activated until it can: %v", broken)
	if err := l.journal.Hold(func(r *journal.Record) error {
		return r.QueueLog(topics.Log{Source: "agent", Text: text, At: l.now()})
	}); err != nil {
		l.log.Error("failing disk cannot be reported", "err", err)
	}
}

func (l *Link) heartbeat() topics.Heartbeat {
	f := l.facts(false)
	mode, interval, jitter := l.schedule()
	_, quality := l.clock.Read()
	h := topics.Heartbeat{
		Versions: f.Versions, BootID: f.BootID, Mode: mode, TimeZone: l.cfg.TimeZone,
		Manifests: map[string]int64{}, Clock: quality, At: l.now(),
	}
	if l.saving() {
		h.ModeReason = topics.ModeReasonBattery
	}
	if mode == topics.ModePolling {
		h.IntervalSeconds = int64((interval + jitter + time.Second - 1) / time.Second)
	}
	l.mu.Lock()
	h.CheckInMillis = l.checkInMS
	if l.assignment != nil {
		h.Assignment = l.assignment.body.Version
	}
	for cohort, m := range maps.All(l.manifests) {
		h.Manifests[cohort] = m.body.Version
	}
	l.mu.Unlock()
	l.machine.Fill(&h)
	return h
}

// send sends what is in the journal, until ctx ends.
func (l *Link) send(ctx context.Context, c *conn, s session) {
	failures := 0
	for ctx.Err() == nil {
		report, ok := l.journal.Next()
		if !ok {
			select {
			case <-ctx.Done():
			case <-l.journal.Changed():
			}
			continue
		}
		if l.sendOne(ctx, c, s, report) {
			failures = 0
			continue
		}
		failures++
		timer := time.NewTimer(l.pause(failures))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// sendOne publishes one report. It is done with it, or wants to be called
// again later.
func (l *Link) sendOne(ctx context.Context, c *conn, s session, report journal.Report) (done bool) {
	defer l.journal.Sending(report)()
	return l.sent(ctx, c, report, s.Publish(ctx, l.publication(report)))
}

func (l *Link) publication(report journal.Report) mqttclient.Publication {
	topic := topics.Name{Kind: report.Kind, ID: l.cfg.Device}.String()
	return mqttclient.Publication{Topic: topic, Payload: report.Payload, QoS: 1}
}

// sent takes note of what became of a report that was published.
func (l *Link) sent(ctx context.Context, c *conn, report journal.Report, err error) (done bool) {
	switch {
	case err == nil:
		l.hear(c)
		err = l.journal.Sent(report.ID)
		count(l.metrics.sent, string(report.Kind))
	case never(err):
		l.log.Error("report dropped: the broker will never take it", "kind", string(report.Kind), "err", err)
		count(l.metrics.dropped, string(report.Kind))
		err = l.journal.Drop(report.ID)
	default:
		if ctx.Err() == nil {
			l.log.Warn("report not taken yet", "kind", string(report.Kind), "err", err)
		}
		return false
	}
	if err != nil {
		l.log.Error("report cannot be removed from the queue", "err", err)
		return false
	}
	return true
}

// never reports whether the broker will refuse the report for ever. One that says
// it takes only small packets is none of ours: topics.MaxPacket is the contract,
// and another broker keeps to it.
func never(err error) bool {
	code, ok := mqttclient.Refused(err)
	switch code {
	case mqttclient.CodeNotAuthorized, 0x90, 0x95, 0x99: // topic name, packet too large, payload format
		return ok && !errors.Is(err, mqttclient.ErrConnectionLost)
	}
	return false
}

// pause before attempt n+1: full jitter.
func (l *Link) pause(n int) time.Duration {
	return backoff.Range{Min: l.cfg.BackoffMin, Max: l.cfg.BackoffMax}.Draw(n)
}

package link

import (
	"crypto/sha256"
	"fmt"
	"time"

	"groundswell/agent/journal"
	"groundswell/agent/verify"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// receive handles one message, before it is acknowledged.
func (l *Link) receive(m mqttclient.Message) {
	l.take(m.Topic, m.Payload)
}

// take verifies what came on a topic, and keeps it if it may.
func (l *Link) take(topic string, raw []byte) {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.takeLocked(topic, raw)
}

// takeLocked is take for who holds taking.
func (l *Link) takeLocked(topic string, raw []byte) {
	name, err := topics.Parse(topic)
	if err != nil {
		l.unasked("err", err)
		return
	}
	switch name.Kind {
	case topics.KindAssignment:
		err = l.takeAssignment(topic, raw)
	case topics.KindManifest:
		err = l.takeManifest(topic, name.ID, raw)
	case topics.KindCommand:
		err = l.verifier.Command(raw, l.obey)
	default:
		l.unasked("topic", topic)
		return
	}
	if err != nil {
		l.refuse(name, topic, raw, err)
		return
	}
	count(l.metrics.accepted, string(name.Kind))
	l.mu.Lock()
	delete(l.refused, topic)
	l.mu.Unlock()
	now, quality := l.clock.Read()
	if err := l.journal.Witness(now, quality == topics.ClockTrusted); err != nil {
		l.log.Error("a new epoch cannot be begun", "err", err) // the next message tries again
	}
}

func (l *Link) takeAssignment(topic string, raw []byte) error {
	a, err := l.verifier.Assignment(raw)
	if err != nil {
		return err
	}
	until, err := l.verifier.Until(raw)
	if err != nil {
		return err
	}
	l.mu.Lock()
	changed := l.assignment == nil || l.assignment.body.Version != a.Version
	l.assignment = &held[topics.Assignment]{a, raw, until}
	for cohort := range l.manifests {
		if !contains(a.Cohorts, cohort) {
			delete(l.manifests, cohort)
		}
	}
	early := l.hint.early
	l.hint.early = map[string][]byte{}
	l.arrived(topic)
	l.mu.Unlock()
	l.remember(a.Cohorts)
	if changed {
		l.log.Info("assignment accepted", "version", a.Version, "cohorts", a.Cohorts)
		remind(l.changed)
	}
	for topic, raw := range early {
		l.takeLocked(topic, raw)
	}
	return nil
}

func (l *Link) takeManifest(topic, cohort string, raw []byte) error {
	l.mu.Lock()
	assigned := l.assignment != nil && contains(l.assignment.body.Cohorts, cohort)
	if l.assignment == nil && contains(l.hint.cohorts, cohort) {
		l.hint.early[topic] = raw // at most one per cohort
	}
	l.mu.Unlock()
	if !assigned {
		// Queued before the assignment that is on its way, which looks at it then, or
		// after leaving.
		l.log.Debug("manifest of a cohort that is not assigned", "cohort", cohort)
		return nil
	}
	m, err := l.verifier.Manifest(raw, cohort)
	if err != nil {
		return err
	}
	until, err := l.verifier.Until(raw)
	if err != nil {
		return err
	}
	at := time.Now()
	l.mu.Lock()
	before, had := l.manifests[cohort]
	l.manifests[cohort] = held[topics.Manifest]{m, raw, until}
	l.arrived(topic)
	l.mu.Unlock()
	if !had || before.body.Version != m.Version {
		l.log.Info("manifest accepted", "cohort", cohort, "version", m.Version, "at", at.UTC().Format(time.RFC3339Nano))
		remind(l.changed)
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// maxReported bounds how many refusals are told apart.
const maxReported = 64

// refuse tells of a message that did not verify: once per message, however
// often it comes, and not of more than a few a minute. The counter has them all.
func (l *Link) refuse(name topics.Name, topic string, raw []byte, err error) {
	count(l.metrics.refused, string(name.Kind))
	curable := verify.Curable(err)
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", topic, raw, err))
	l.mu.Lock()
	known := l.reported[key]
	if len(l.reported) >= maxReported {
		clear(l.reported)
	}
	l.reported[key] = true
	if curable {
		l.refused[topic] = raw // at most one per topic, and topics are ours
	}
	if name.Kind != topics.KindCommand {
		l.doubt(topic)
	}
	l.mu.Unlock()
	if curable {
		remind(l.curable)
	}
	if known || !l.tellRefusals.Allow() {
		return
	}
	l.log.Warn("message refused; nothing is activated until the topic brings one that verifies", "topic", topic, "bytes", len(raw), "err", err)
	text := fmt.Sprintf("message on %s refused: %v", topic, err)
	if errQueue := l.journal.Hold(func(r *journal.Record) error {
		return r.QueueLog(topics.Log{Source: "agent", Text: text, At: l.now()})
	}); errQueue != nil {
		l.log.Error("refusal cannot be reported", "err", errQueue)
	}
}

// unasked tells of a message that only a broker that is broken or hostile sends.
// It may send any number of them.
func (l *Link) unasked(key string, value any) {
	if l.tellUnasked.Allow() {
		l.log.Warn("message on a topic that was not asked for", key, value)
	}
}

// obey does what a command asks for, in one write of the journal.
func (l *Link) obey(c topics.Command) error {
	err := l.journal.Update(func(r *journal.Record) error {
		r.Command = c.ID
		switch c.Action {
		case topics.CommandLogs:
			for source, text := range l.facts(true).Logs {
				// The end of a log is what matters.
				if extra := len(text) - topics.MaxLog/2; extra > 0 {
					text = text[extra:]
				}
				if err := r.QueueLog(topics.Log{Source: source, Text: text, At: l.now()}); err != nil {
					return err
				}
			}
		case topics.CommandRetry:
			delete(r.Failures, c.Rollout)
			for _, sha := range l.artifacts(c.Rollout) {
				delete(r.Penalties, sha)
			}
		}
		h := l.heartbeat()
		h.Command = c.ID
		return r.QueueHeartbeat(h)
	})
	if err != nil {
		return fmt.Errorf("command %s: %w", c.ID, err)
	}
	l.log.Info("command obeyed", "command", c.ID, "action", string(c.Action))
	remind(l.changed)
	return nil
}

// artifacts are those that a rollout brings, as far as manifests are held.
func (l *Link) artifacts(rollout string) (sha256 []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.manifests {
		for _, e := range m.body.Entries {
			if e.Rollout == rollout {
				sha256 = append(sha256, e.Target.SHA256)
			}
		}
	}
	return sha256
}

func (l *Link) now() time.Time { return l.clock.Now().UTC().Truncate(time.Millisecond) }

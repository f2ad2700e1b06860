package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// UplinkRecord is one message of a device (or, for presence, of the broker
// about it) as the broker delivered and stamped it.
type UplinkRecord struct {
	Topic   string
	Payload []byte
	// Shard and Sequence identify the message, also when it comes again.
	Shard, Sequence int64
	Stored          time.Time // by the broker
	// Model and Hardware are from the device's certificate.
	Model, Hardware string
}

// UplinkOutcome says what became of a record.
type UplinkOutcome string

// Outcomes. All of them mean that the record may be acknowledged.
const (
	Applied UplinkOutcome = "applied"
	// Duplicate: it was applied before, or something newer was.
	Duplicate UplinkOutcome = "duplicate"
	// Ignored: it is of a kind that is not for the registry.
	Ignored UplinkOutcome = "ignored"
	// Dead: it can never be stored and lies among the dead letters.
	Dead UplinkOutcome = "dead"
)

// UplinkResult is what became of one record.
type UplinkResult struct {
	Kind    topics.Kind // absent when the topic is none of the contract
	Device  string
	Outcome UplinkOutcome
	Reason  string // of Dead
}

// ApplyUplink stores a batch in one transaction and answers for each record in
// turn. An error means that nothing was stored, and that trying again may help:
// acknowledge nothing.
//
// It is idempotent and does not depend on order: reports count by (epoch,
// attempt, sequence) per device and rollout, heartbeats by (epoch, sequence),
// presence by connection number, all of which only grow. A device that is not
// known is registered, gets its cohorts and a signed assignment at once.
//
// What does not decode is a dead letter; and when PostgreSQL refuses the data
// of the batch, the records are stored one by one, each behind a savepoint, so
// that only the one that it will never take becomes a dead letter.
func (s *Store) ApplyUplink(ctx context.Context, records []UplinkRecord) ([]UplinkResult, error) {
	if len(records) == 0 {
		return nil, nil
	}
	messages, results := decodeAll(records)
	err := s.change(ctx, func(tx pgx.Tx) error {
		return s.applyAll(ctx, tx, messages, slices.Clone(results), false, &results)
	})
	if poisonous(err) {
		s.log.Warn("batch of reports refused, storing one by one", "records", len(records), "err", err)
		messages, results = decodeAll(records)
		err = s.change(ctx, func(tx pgx.Tx) error {
			return s.applyAll(ctx, tx, messages, slices.Clone(results), true, &results)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("apply uplink: %w", err)
	}
	return results, nil
}

// poisonous reports whether PostgreSQL refused the data, and will again: a data
// exception (class 22) or a violated constraint (class 23), or text that does
// not fit a limit of the server (class 54).
func poisonous(err error) bool {
	state := sqlState(err)
	return len(state) == 5 && (state[:2] == "22" || state[:2] == "23" || state[:2] == "54")
}

// message is a decoded record.
type message struct {
	at      int // index of the record
	record  UplinkRecord
	device  string
	payload any // topics.Status, Heartbeat, Log or Presence
	dead    string
}

func decodeAll(records []UplinkRecord) ([]message, []UplinkResult) {
	messages := make([]message, 0, len(records))
	results := make([]UplinkResult, len(records))
	for i, r := range records {
		m := message{at: i, record: r}
		name, err := topics.Parse(r.Topic)
		if err == nil {
			results[i].Kind, results[i].Device, m.device = name.Kind, name.ID, name.ID
			switch name.Kind {
			case topics.KindStatus:
				m.payload, err = topics.DecodeStatus(r.Payload)
			case topics.KindHeartbeat:
				m.payload, err = topics.DecodeHeartbeat(r.Payload)
			case topics.KindLog:
				m.payload, err = topics.DecodeLog(r.Payload)
			case topics.KindPresence:
				m.payload, err = topics.DecodePresence(r.Payload)
			default:
				results[i].Outcome = Ignored
				continue
			}
		}
		if err == nil && (!topics.ValidID(r.Model) || !topics.ValidID(r.Hardware)) {
			if p, ok := m.payload.(topics.Presence); ok {
				m.record.Model, m.record.Hardware = p.Model, p.Hardware
			} else {
				err = errors.New("the broker's stamp of model and hardware is missing")
			}
		}
		if err != nil {
			m.dead = err.Error()
		}
		if m.record.Stored.IsZero() || m.record.Stored.Year() > 9999 || m.record.Stored.Year() < 1970 {
			m.record.Stored = time.Now()
		}
		messages = append(messages, m)
	}
	// In order of devices, so that two replicas lock rows in the same order.
	slices.SortStableFunc(messages, func(a, b message) int { return strings.Compare(a.device, b.device) })
	return messages, results
}

// applyAll stores messages and writes to out what became of them. isolated
// stores each behind a savepoint.
func (s *Store) applyAll(ctx context.Context, tx pgx.Tx, messages []message, results []UplinkResult, isolated bool, out *[]UplinkResult) error {
	if !isolated {
		if err := s.applySome(ctx, tx, messages, results); err != nil {
			return err
		}
		*out = results
		return nil
	}
	for _, m := range messages {
		err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return s.applySome(ctx, tx, []message{m}, results) })
		if poisonous(err) {
			m.dead = err.Error()
			err = s.applySome(ctx, tx, []message{m}, results)
		}
		if err != nil {
			return err
		}
	}
	*out = results
	return nil
}

func (s *Store) applySome(ctx context.Context, tx pgx.Tx, messages []message, results []UplinkResult) error {
	var alive []message
	for _, m := range messages {
		if m.dead == "" {
			alive = append(alive, m)
			continue
		}
		if err := deadLetter(ctx, tx, "registry", m.record, m.dead); err != nil {
			return err
		}
		results[m.at].Outcome, results[m.at].Reason = Dead, m.dead
	}
	if len(alive) == 0 {
		return nil
	}
	if err := s.register(ctx, tx, alive); err != nil {
		return err
	}
	u := uplink{now: time.Now(), batch: &pgx.Batch{}, results: results}
	for _, m := range alive {
		u.contact(m)
		switch p := m.payload.(type) {
		case topics.Status:
			u.status(m, p)
		case topics.Heartbeat:
			u.heartbeat(m, p)
		case topics.Presence:
			u.presence(m, p)
		case topics.Log:
			u.log(m, p)
		}
	}
	if err := tx.SendBatch(ctx, u.batch).Close(); err != nil {
		return err
	}
	return s.heal(ctx, tx, u.held)
}

// register makes the devices that are not known, corrects model and hardware
// of those whose certificate says something else, and sees to their cohorts.
func (s *Store) register(ctx context.Context, tx pgx.Tx, messages []message) error {
	type certified struct{ model, hardware string }
	seen := map[string]certified{}
	for _, m := range messages {
		seen[m.device] = certified{m.record.Model, m.record.Hardware}
	}
	ids := make([]string, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	known := map[string]certified{}
	unassigned := map[string]bool{}
	rows, err := tx.Query(ctx, `
		SELECT d.id, d.model, d.hardware, a.device IS NULL FROM device d LEFT JOIN assignment a ON a.device = d.id WHERE d.id = ANY($1)`, ids)
	if err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	var id string
	var c certified
	var bare bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &c.model, &c.hardware, &bare}, func() error {
		known[id] = c
		unassigned[id] = bare
		return nil
	}); err != nil {
		return fmt.Errorf("read devices: %w", err)
	}
	var changed []string
	batch := &pgx.Batch{}
	for _, id := range ids {
		was, there := known[id]
		now := seen[id]
		switch {
		case !there:
			batch.Queue(`
				INSERT INTO device (id, bucket, model, hardware) VALUES ($1, $2, $3, $4)
				ON CONFLICT (id) DO NOTHING`, id, topics.Bucket(id), now.model, now.hardware)
			batch.Queue(`
				INSERT INTO audit (actor, action, object, after_revision, detail)
				VALUES ('ingest', 'device.register', 'device/' || $1::text, 1, jsonb_build_object('model', $2::text, 'hardware', $3::text))`, id, now.model, now.hardware)
		case was != now:
			batch.Queue(`UPDATE device SET model = $2, hardware = $3, revision = revision + 1 WHERE id = $1`, id, now.model, now.hardware)
		case !unassigned[id]:
			continue
		}
		changed = append(changed, id)
	}
	if len(changed) == 0 {
		return nil
	}
	if err := lockMembership(ctx, tx, false); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return s.reassign(ctx, tx, changed)
}

// uplink collects the statements of a batch.
type uplink struct {
	now     time.Time
	batch   *pgx.Batch
	results []UplinkResult
	// held is the assignment version that devices say they hold.
	held map[string]int64
}

// affects notes for a record whether its statement changed anything.
func (u *uplink) affects(m message, q *pgx.QueuedQuery) {
	q.Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() > 0 {
			u.results[m.at].Outcome = Applied
		} else if u.results[m.at].Outcome == "" {
			u.results[m.at].Outcome = Duplicate
		}
		return nil
	})
}

func (u *uplink) contact(m message) {
	u.batch.Queue(`
		INSERT INTO contact AS c (device, first_contact, last_contact) VALUES ($1, $2, $2)
		ON CONFLICT (device) DO UPDATE SET last_contact = $2 WHERE c.last_contact < $2`, m.device, m.record.Stored)
}

// runs notes what a device says it runs.
func (u *uplink) runs(m message, component, version string, epoch, sequence int64) {
	key, err := fleet.VersionKey(version)
	if err != nil {
		return // the decoder has checked it
	}
	u.batch.Queue(`
		INSERT INTO device_version AS v (device, component, version, sort_key, epoch, sequence) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (device, component) DO UPDATE SET version = $3, sort_key = $4, epoch = $5, sequence = $6
		WHERE (v.epoch, v.sequence) < ($5, $6)`, m.device, component, version, key, epoch, sequence)
}

func (u *uplink) status(m message, p topics.Status) {
	u.affects(m, u.batch.Queue(`
		INSERT INTO report (device, epoch, sequence, rollout, cohort, component, release, revision, attempt, state, reason, detail,
			from_version, running, target, at, stored_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING`,
		m.device, p.Epoch, p.Sequence, p.Rollout, p.Cohort, p.Component, p.Release, p.Revision, p.Attempt, string(p.State), p.Reason, p.Detail,
		p.From, p.Running, p.Target, p.At, m.record.Stored))
	// Only for rollouts that exist, and of members: what else a device says
	// stands in its history and counts nowhere.
	u.affects(m, u.batch.Queue(`
		INSERT INTO rollout_device AS o (rollout, device, position, canary, model, hardware, region, from_version, state, reason, detail,
			revision, epoch, attempt, sequence, reported_at, until_at, silent_after)
		SELECT r.id, d.id, (d.bucket - r.rollout_offset + 1000000) % 1000000,
			EXISTS (SELECT FROM cohort_member WHERE cohort = r.canary_cohort AND device = d.id),
			d.model, d.hardware, d.region, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp(), $11,
			greatest(r.silent_seconds, r.silent_factor * d.polling_seconds)
		FROM rollout r, device d
		WHERE r.id = $1 AND d.id = $2 AND r.started_at IS NOT NULL AND EXISTS (
			SELECT FROM rollout_cohort rc JOIN cohort_member m ON m.cohort = rc.cohort WHERE rc.rollout = r.id AND m.device = d.id)
		ON CONFLICT (rollout, device) DO UPDATE SET
			state = $4, reason = $5, detail = $6, revision = $7, epoch = $8, attempt = $9, sequence = $10,
			reported_at = clock_timestamp(), until_at = $11, from_version = $3
		WHERE (o.epoch, o.attempt, o.sequence) < ($8, $9, $10)`,
		p.Rollout, m.device, p.From, string(p.State), p.Reason, p.Detail, p.Revision, p.Epoch, p.Attempt, p.Sequence, p.Until))
	if p.State.Terminal() {
		u.batch.Queue(`
			UPDATE rollout_device SET outcome = $3, outcome_reason = $4, outcome_at = clock_timestamp(),
				outcome_epoch = $5, outcome_attempt = $6, outcome_sequence = $7
			WHERE rollout = $1 AND device = $2 AND (outcome_epoch, outcome_attempt, outcome_sequence) < ($5, $6, $7)`,
			p.Rollout, m.device, string(p.State), p.Reason, p.Epoch, p.Attempt, p.Sequence)
	}
	u.runs(m, p.Component, p.Running, p.Epoch, p.Sequence)
}

func (u *uplink) heartbeat(m message, p topics.Heartbeat) {
	u.affects(m, u.batch.Queue(`
		UPDATE contact SET last_check_in = CASE WHEN $6 > 0 THEN $2 ELSE last_check_in END,
			check_in_ms = CASE WHEN $6 > 0 THEN $6 ELSE check_in_ms END,
			mode = $3, agent = $4, heartbeat = $5, epoch = $7, sequence = $8, assignment_held = $9
		WHERE device = $1 AND (epoch, sequence) < ($7, $8)`,
		m.device, m.record.Stored, string(p.Mode), p.Agent, string(m.record.Payload), p.CheckInMillis, p.Epoch, p.Sequence, p.Assignment))
	for component, version := range p.Versions {
		u.runs(m, component, version, p.Epoch, p.Sequence)
	}
	if p.Command != "" {
		u.batch.Queue(`UPDATE command SET acked_at = clock_timestamp() WHERE id = $1 AND device = $2 AND acked_at IS NULL`, p.Command, m.device)
	}
	if u.held == nil {
		u.held = map[string]int64{}
	}
	u.held[m.device] = p.Assignment
}

func (u *uplink) presence(m message, p topics.Presence) {
	// A connect belongs to a higher number than any before; a disconnect to
	// that of its connect, or comes before it.
	compare := "<"
	if !p.Connected {
		compare = "<="
	}
	u.affects(m, u.batch.Queue(`
		UPDATE contact SET connected = $2, connection = $3, node = $4
		WHERE device = $1 AND connection `+compare+` $3 AND (connected <> $2 OR connection <> $3)`, m.device, p.Connected, p.Connection, p.Node))
}

func (u *uplink) log(m message, p topics.Log) {
	u.affects(m, u.batch.Queue(`
		INSERT INTO device_log (device, epoch, sequence, rollout, source, text, at, stored_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
		m.device, p.Epoch, p.Sequence, p.Rollout, p.Source, p.Text, p.At, m.record.Stored))
}

// healAfter is how old an assignment must be before a device that does not hold
// it gets it again: it may only be on its way.
const healAfter = time.Minute

// heal puts assignments into the outbox again that devices turn out not to
// hold: the broker has lost them.
func (s *Store) heal(ctx context.Context, tx pgx.Tx, held map[string]int64) error {
	if len(held) == 0 {
		return nil
	}
	devices := make([]string, 0, len(held))
	versions := make([]int64, 0, len(held))
	for d, v := range held {
		devices, versions = append(devices, d), append(versions, v)
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO outbox (kind, id, region, version)
		SELECT 'assignment', a.device, $3, a.version
		FROM unnest($1::text[], $2::bigint[]) AS h (device, version) JOIN assignment a ON a.device = h.device
		WHERE h.version < a.version AND a.published_at < clock_timestamp() - $4::interval
		ORDER BY a.device ON CONFLICT DO NOTHING`, devices, versions, Region, healAfter)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return notify(ctx, tx)
}

// DeadLetter keeps a record that consumer ("registry" or "telemetry") can never
// store. The same again is no change.
func (s *Store) DeadLetter(ctx context.Context, consumer string, r UplinkRecord, reason string) error {
	return s.change(ctx, func(tx pgx.Tx) error { return deadLetter(ctx, tx, consumer, r, reason) })
}

func deadLetter(ctx context.Context, tx pgx.Tx, consumer string, r UplinkRecord, reason string) error {
	payload := r.Payload
	if payload == nil {
		payload = []byte{}
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO dead_letter (topic, shard, sequence, payload, stored_at, consumer, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT DO NOTHING`, []byte(r.Topic), r.Shard, r.Sequence, bytes.Clone(payload), optional(r.Stored), consumer, storable(reason))
	if err != nil {
		return fmt.Errorf("keep dead letter: %w", err)
	}
	return nil
}

// DeadLetterEntry is a record that could not be stored.
type DeadLetterEntry struct {
	ID              int64
	At              time.Time
	Topic           string
	Shard, Sequence int64
	Payload         []byte
	Consumer        string
	Reason          string
}

// DeadLetters lists them, newest first.
func (s *Store) DeadLetters(ctx context.Context, p Page) ([]DeadLetterEntry, string, error) {
	before := int64(1<<63 - 1)
	limit, err := p.start(&before)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT id, at, topic, shard, sequence, payload, consumer, reason FROM dead_letter WHERE id < $1 ORDER BY id DESC LIMIT $2`, before, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DeadLetterEntry, err error) {
		var topic []byte
		err = row.Scan(&d.ID, &d.At, &topic, &d.Shard, &d.Sequence, &d.Payload, &d.Consumer, &d.Reason)
		d.At, d.Topic = d.At.UTC(), string(topic)
		return d, err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	letters, next := cut(letters, limit, func(d DeadLetterEntry) []any { return []any{d.ID} })
	return letters, next, nil
}

// Alert is a condition that an operator should see.
type Alert struct {
	Kind, Object, Message string
	Count                 int64
	FirstAt, LastAt       time.Time
}

// Alerts lists them by kind and object.
func (s *Store) Alerts(ctx context.Context, p Page) ([]Alert, string, error) {
	var kind, object string
	limit, err := p.start(&kind, &object)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT kind, object, message, count, first_at, last_at FROM alert WHERE (kind, object) > ($1, $2) ORDER BY kind, object LIMIT $3`, kind, object, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	alerts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Alert])
	if err != nil {
		return nil, "", fmt.Errorf("list alerts: %w", err)
	}
	alerts, next := cut(alerts, limit, func(a Alert) []any { return []any{a.Kind, a.Object} })
	return alerts, next, nil
}

package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/topics"
)

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
				WITH made AS (
					INSERT INTO device (id, bucket, model, hardware) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING RETURNING id
				)
				INSERT INTO audit (actor, action, object, after_revision, detail)
				SELECT 'ingest', 'device.register', 'device/' || id, 1, jsonb_build_object('model', $3::text, 'hardware', $4::text)
				FROM made`, id, topics.Bucket(id), now.model, now.hardware)
		case was != now:
			batch.Queue(`
				WITH changed AS (
					UPDATE device SET model = $2, hardware = $3, revision = revision + 1 WHERE id = $1 AND (model, hardware) <> ($2, $3) RETURNING revision
				)
				INSERT INTO audit (actor, action, object, before_revision, after_revision, detail)
				SELECT 'ingest', 'device.certify', 'device/' || $1::text, revision - 1, revision,
					jsonb_build_object('model', $2::text, 'hardware', $3::text, 'model_before', $4::text, 'hardware_before', $5::text)
				FROM changed`, id, now.model, now.hardware, was.model, was.hardware)
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

// healAfter is how old an assignment must be before a device that does not hold
// it gets it again: it may only be on its way.
const healAfter = time.Minute

// heal puts assignments into the outbox again that devices turn out not to
// hold: the broker has lost them. To whoever holds a newer one than is stored
// (the database was restored from a backup, and the broker too, or the fleet is
// too large for the publisher to compare all), it is signed anew above that one,
// as far as one can be that was signed by now (fleet.NextVersion): what a device
// claims moves no version into the far future.
func (s *Store) heal(ctx context.Context, tx pgx.Tx, held map[string]int64) error {
	if len(held) == 0 {
		return nil
	}
	devices := make([]string, 0, len(held))
	versions := make([]int64, 0, len(held))
	for d, v := range held {
		devices, versions = append(devices, d), append(versions, v)
	}
	const differs = `
		FROM unnest($1::text[], $2::bigint[]) AS h (device, version) JOIN assignment a ON a.device = h.device
		WHERE a.published_at < clock_timestamp() - $3::interval AND h.version `
	rows, err := tx.Query(ctx, `
		SELECT a.device, least(h.version, extract(epoch FROM clock_timestamp())::bigint + 3600)`+differs+`> a.version`, devices, versions, healAfter)
	if err != nil {
		return fmt.Errorf("look for devices that are ahead: %w", err)
	}
	ahead := map[string]int64{}
	var device string
	var version int64
	if _, err := pgx.ForEachRow(rows, []any{&device, &version}, func() error { ahead[device] = version; return nil }); err != nil {
		return fmt.Errorf("look for devices that are ahead: %w", err)
	}
	if len(ahead) > 0 {
		s.log.Warn("devices hold newer assignments than are stored, signing anew", "count", len(ahead))
		if err := s.signAssignmentsAbove(ctx, tx, ahead); err != nil {
			return err
		}
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO outbox (kind, id, region, version)
		SELECT 'assignment', behind.device, r.name, behind.version
		FROM (SELECT a.device, a.version`+differs+`< a.version) behind CROSS JOIN region r WHERE r.retired_at IS NULL
		ORDER BY behind.device, r.name ON CONFLICT DO NOTHING`, devices, versions, healAfter)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	return notify(ctx, tx)
}

// tellAfter is how old an assignment must be before tellTime signs it anew.
const tellAfter = 15 * time.Minute

// tellTime signs the assignments anew of devices that number what they send below
// what they have sent already, though nothing of theirs was stored since: they have
// lost their memory (a factory reset), and number by a clock that is behind, such as
// one without a battery. Nothing that they report would count. The time of issue tells
// them how late it is, and they begin an epoch above (see package agent/journal).
func (s *Store) tellTime(ctx context.Context, tx pgx.Tx, heard map[string]countRow) error {
	if len(heard) == 0 {
		return nil
	}
	var devices []string
	var epochs, sequences []int64
	var stored []time.Time
	for d, c := range heard {
		devices, epochs, sequences, stored = append(devices, d), append(epochs, c.epoch), append(sequences, c.sequence), append(stored, c.stored)
	}
	rows, err := tx.Query(ctx, `
		SELECT a.device, a.version
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[]) AS h (device, epoch, sequence, stored)
		JOIN contact c ON c.device = h.device JOIN assignment a ON a.device = h.device
		WHERE (h.epoch, h.sequence) < (c.epoch, c.sequence) AND h.stored >= c.last_contact - interval '1 ms'
			AND a.published_at < clock_timestamp() - $5::interval`, devices, epochs, sequences, stored, tellAfter)
	if err != nil {
		return fmt.Errorf("look for devices that count from behind: %w", err)
	}
	behind := map[string]int64{}
	var device string
	var version int64
	if _, err := pgx.ForEachRow(rows, []any{&device, &version}, func() error { behind[device] = version; return nil }); err != nil {
		return fmt.Errorf("look for devices that count from behind: %w", err)
	}
	if len(behind) == 0 {
		return nil
	}
	s.log.Info("devices number their reports from behind: they are told the time by a new assignment", "count", len(behind))
	return s.signAssignmentsAbove(ctx, tx, behind)
}

package store

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// signAssignments signs anew the assignments of devices as the transaction
// sees them, stores them and puts them into the outbox. It takes the devices'
// row locks, in order of id.
func (s *Store) signAssignments(ctx context.Context, tx pgx.Tx, devices []string) error {
	floor := make(map[string]int64, len(devices))
	for _, d := range devices {
		floor[d] = 0
	}
	return s.signAssignmentsAbove(ctx, tx, floor)
}

// assignmentChunk is how many assignments go to PostgreSQL in one batch.
const assignmentChunk = 500

func (s *Store) signAssignmentsAbove(ctx context.Context, tx pgx.Tx, floor map[string]int64) error {
	if len(floor) == 0 {
		return nil
	}
	if s.options.Signer == nil {
		return errNoSigner
	}
	ids := make([]string, 0, len(floor))
	for id := range floor {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	for len(ids) > 0 {
		n := min(len(ids), assignmentChunk)
		if err := s.signAssignmentChunk(ctx, tx, ids[:n], floor); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return notify(ctx, tx)
}

func (s *Store) signAssignmentChunk(ctx context.Context, tx pgx.Tx, ids []string, floor map[string]int64) error {
	if _, err := tx.Exec(ctx, `SELECT FROM device WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`, ids); err != nil {
		return fmt.Errorf("lock devices: %w", err)
	}
	now, err := txNow(ctx, tx)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		SELECT d.id, d.time_zone, d.polling_seconds, coalesce(a.version, 0),
			ARRAY(SELECT cohort FROM cohort_member WHERE device = d.id ORDER BY cohort)
		FROM device d LEFT JOIN assignment a ON a.device = d.id
		WHERE d.id = ANY($1) ORDER BY d.id`, ids)
	if err != nil {
		return fmt.Errorf("read devices to assign: %w", err)
	}
	devices, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d fleet.Device, err error) {
		err = row.Scan(&d.ID, &d.TimeZone, &d.PollingSeconds, &d.AssignmentVersion, &d.Cohorts)
		return d, err
	})
	if err != nil {
		return fmt.Errorf("read devices to assign: %w", err)
	}
	var names []string
	var versions []int64
	var bodies [][]byte
	var refresh []time.Time
	for _, d := range devices {
		version := fleet.NextVersion(max(d.AssignmentVersion, floor[d.ID]), now)
		a, err := fleet.BuildAssignment(s.options.TrustDomain, d, s.options.Sources, version, now)
		if err != nil {
			return err
		}
		signed, err := s.options.Signer.SignAssignment(a, now.Add(fleet.MetadataLifetime))
		if err != nil {
			return fmt.Errorf("sign assignment of device %s: %w", d.ID, err)
		}
		names, versions, bodies, refresh = append(names, d.ID), append(versions, version), append(bodies, signed), append(refresh, refreshAt(now))
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO assignment (device, version, signed, issued_at, refresh_at)
		SELECT device, version, signed, $5, refresh FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::timestamptz[]) AS n (device, version, signed, refresh)
		ON CONFLICT (device) DO UPDATE SET
			version = excluded.version, signed = excluded.signed, issued_at = excluded.issued_at, refresh_at = excluded.refresh_at, published_at = NULL`,
		names, versions, bodies, refresh, now.Truncate(time.Second))
	if err != nil {
		return fmt.Errorf("store assignments: %w", err)
	}
	return enqueue(ctx, tx, topics.KindAssignment, names, versions)
}

// RefreshAssignments signs anew up to limit assignments whose half-life is
// over, and reports how many that were.
func (s *Store) RefreshAssignments(ctx context.Context, limit int) (n int, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		if err := lockMembership(ctx, tx, false); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT device FROM assignment WHERE refresh_at <= now() ORDER BY refresh_at LIMIT $1`, limit)
		if err != nil {
			return fmt.Errorf("find assignments to refresh: %w", err)
		}
		due, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find assignments to refresh: %w", err)
		}
		n = len(due)
		return s.signAssignments(ctx, tx, due)
	})
	return n, err
}

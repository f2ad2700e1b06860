package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// deltaSources says what the devices run that a rollout is to move, the most common
// version first, and which delta there is from it. Its cost grows with the number of
// members.
func deltaSources(ctx context.Context, tx pgx.Tx, r fleet.Rollout, release fleet.Release) ([]fleet.DeltaSource, error) {
	keys, err := versionKeys(ctx, tx, r.Component, func(version string) (bool, error) {
		if ok, err := fleet.Eligible(r.Kind, r.From, r.Version, version); err != nil || !ok {
			return false, err
		}
		return release.Takes(version)
	})
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		WITH member AS (
			SELECT device, bool_or(cohort = $2) AS canary FROM cohort_member WHERE cohort = ANY($1) GROUP BY device
		), run AS (
			SELECT v.version, count(*) AS devices, count(*) FILTER (WHERE m.canary) AS canary
			FROM member m JOIN device d ON d.id = m.device JOIN device_version v ON v.device = m.device AND v.component = $5
			WHERE d.model = ANY($3) AND (cardinality($4::text[]) = 0 OR d.hardware = ANY($4)) AND v.sort_key = ANY($6)
			GROUP BY v.version
		)
		SELECT run.version, run.devices, run.canary, coalesce(l.sha256, ''), coalesce(l.index_sha256, ''), coalesce(x.state, ''), CASE WHEN `+bothListed+` THEN x.expanded_length ELSE coalesce(x.length, 0) END,
			CASE WHEN `+bothListed+` THEN x.expanded_sha256 ELSE coalesce(x.sha256, '') END,
			CASE WHEN `+bothListed+` THEN coalesce(x.length, 0) ELSE 0 END,
			coalesce(x.listed, false), coalesce(x.error, '')
		FROM run
		LEFT JOIN release l ON l.name = $7 AND l.version = run.version AND l.component = $5 AND l.sha256 <> $8
		LEFT JOIN delta x ON x.target = $8 AND x.source = l.sha256
		ORDER BY run.devices DESC, run.version`,
		r.AllCohorts(), r.CanaryCohort, release.Models, nonNil(release.Hardware), r.Component, keys, release.Name, release.SHA256)
	if err != nil {
		return nil, fmt.Errorf("count what devices of %s run: %w", r.ID, err)
	}
	sources, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d fleet.DeltaSource, err error) {
		err = row.Scan(&d.From, &d.Devices, &d.Canary, &d.Artifact, &d.Index, &d.State, &d.Delta.Length, &d.Delta.SHA256, &d.Plain, &d.Listed, &d.Error)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("count what devices of %s run: %w", r.ID, err)
	}
	return sources, nil
}

// bothListed says of a delta x that devices have, or get together with the plain one, the one
// that looks through compression.
const bothListed = `(x.expanded_sha256 IS NOT NULL AND (x.expanded_listed OR NOT x.listed OR x.plain_useless))`

// waitForDeltas is what the first wave of a rollout waits for at its start; nil: nothing.
func (s *Store) waitForDeltas(ctx context.Context, tx pgx.Tx, r fleet.Rollout, now time.Time) (*fleet.DeltaWait, error) {
	if s.options.Deltas == 0 || r.Policy.DeltaWait == 0 || r.StartedAt.IsZero() {
		return nil, nil
	}
	for _, w := range r.Waves {
		if w.State != fleet.WavePending {
			return nil, nil
		}
	}
	release, err := readRelease(ctx, tx, r.Release, r.Version)
	if err != nil || release.Index == nil {
		return nil, err
	}
	sources, err := deltaSources(ctx, tx, r, release)
	if err != nil {
		return nil, err
	}
	return r.WaitsForDeltas(sources, s.options.Deltas, now), nil
}

// describeDeltas fills in from which versions there are deltas, and what the first wave
// waits for.
func (s *Store) describeDeltas(ctx context.Context, tx pgx.Tx, r *fleet.Rollout) error {
	if r.State != fleet.Scheduled && !r.State.InManifest() {
		return nil
	}
	release, err := readRelease(ctx, tx, r.Release, r.Version)
	if err != nil || release.Index == nil {
		return err
	}
	if r.Deltas, err = deltaSources(ctx, tx, *r, release); err != nil {
		return err
	}
	now, err := txNow(ctx, tx)
	if err != nil {
		return err
	}
	wait, err := s.waitForDeltas(ctx, tx, *r, now)
	if wait != nil {
		r.Waves[0].Gate = wait.String()
	}
	return err
}

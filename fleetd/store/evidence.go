package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// Evidence reads, on one snapshot, a rollout and what the driver needs to judge
// it. Its cost grows with the members of the open wave (while the last is open,
// of all).
func (s *Store) Evidence(ctx context.Context, id string) (r fleet.Rollout, e fleet.Evidence, err error) {
	err = s.view(ctx, func(tx pgx.Tx) error {
		if r, err = readRollout(ctx, tx, id); err != nil {
			return err
		}
		if e.Now, err = txNow(ctx, tx); err != nil {
			return err
		}
		args, err := eligibleArgs(ctx, tx, r)
		if err != nil {
			return err
		}
		if w, ok := r.Current(); ok {
			only := w.Index
			if r.Last(w) {
				only = -1
			}
			found, err := standings(ctx, tx, r, only, e.Now, args)
			if err != nil {
				return err
			}
			for _, s := range found {
				if s.wave == w.Index {
					e.Wave = s.tallied(e.Wave)
				}
				if only < 0 {
					e.All = s.tallied(e.All)
				}
			}
		}
		if e.All.Members == 0 {
			if err := tx.QueryRow(ctx, `SELECT count(*) FROM cohort_member WHERE cohort = ANY($1)`, r.AllCohorts()).Scan(&e.Devices); err != nil {
				return fmt.Errorf("count devices of %s: %w", id, err)
			}
		}
		e.Window, err = window(ctx, tx, r, e, args)
		return err
	})
	return r, e, err
}

// window tallies the outcomes within the breaker's window.
func window(ctx context.Context, tx pgx.Tx, r fleet.Rollout, e fleet.Evidence, args []any) ([]fleet.Tally, error) {
	since := e.Now.Add(-time.Duration(r.Policy.Breaker.Window))
	if r.ResumedAt.After(since) {
		since = r.ResumedAt
	}
	rows, err := tx.Query(ctx, `
		WITH outcome AS (
			SELECT model, hardware, region, from_version, outcome <> 'committed' AS failure, outcome_reason AS reason, outcome_at AS at
			FROM rollout_device WHERE rollout = $1 AND outcome_at > $2 AND outcome IS NOT NULL
			UNION ALL
			SELECT o.model, o.hardware, o.region, o.from_version, true, 'silent', o.silent_at
			FROM (
				SELECT *, greatest(reported_at, until_at, $4::timestamptz) + silent_after * interval '1 second' AS silent_at
				FROM rollout_device WHERE rollout = $1 AND state NOT IN ('committed', 'failed', 'rolled_back')
			) o LEFT JOIN contact c ON c.device = o.device
			WHERE o.silent_at > $2 AND o.silent_at <= $3
				AND (o.state <> 'waiting' OR o.until_at IS NOT NULL AND c.last_contact >= o.until_at)
				AND (o.outcome IS NULL OR o.outcome_at <= $2)
		)
		SELECT CASE GROUPING(model, hardware, region, from_version) WHEN 7 THEN 'model' WHEN 11 THEN 'hardware' WHEN 13 THEN 'region' WHEN 14 THEN 'from' ELSE '' END,
			coalesce(model, hardware, region, from_version, ''), count(*), count(*) FILTER (WHERE failure),
			coalesce((array_agg(reason ORDER BY at) FILTER (WHERE failure))[1], '')
		FROM outcome
		GROUP BY GROUPING SETS ((), (model), (hardware), (region), (from_version))
		ORDER BY GROUPING(model, hardware, region, from_version) DESC, 4 DESC, 2`, r.ID, since, e.Now, optional(r.ResumedAt))
	if err != nil {
		return nil, fmt.Errorf("tally outcomes of %s: %w", r.ID, err)
	}
	tallies, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t fleet.Tally, err error) {
		err = row.Scan(&t.Slice, &t.Value, &t.Sample, &t.Failures, &t.FirstReason)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("tally outcomes of %s: %w", r.ID, err)
	}
	var out []fleet.Tally
	for _, t := range tallies {
		if t.Slice != "" && !slices.Contains(r.Policy.Breaker.Slices, t.Slice) {
			continue
		}
		if t.Members, err = tallyMembers(ctx, tx, r, t, args); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// tallyMembers counts the devices of a slice in the waves opened so far, as far
// as that matters: when the sample is large anyway, or nothing failed, it does
// not.
func tallyMembers(ctx context.Context, tx pgx.Tx, r fleet.Rollout, t fleet.Tally, args []any) (n int64, err error) {
	if t.Failures == 0 || t.Sample >= r.Policy.Breaker.MinSample {
		return t.Sample, nil
	}
	column := map[string]string{
		"": "''", fleet.SliceModel: "e.model", fleet.SliceHardware: "e.hardware", fleet.SliceRegion: "e.region", fleet.SliceFrom: "e.from_version",
	}[t.Slice]
	err = tx.QueryRow(ctx, eligibleMembers+`
		SELECT count(*) FROM (
			SELECT FROM eligible e JOIN rollout_wave w ON `+inWave+` WHERE `+column+` = $9 LIMIT $10) x`,
		append(args[:8:8], t.Value, r.Policy.Breaker.MinSample)...).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count slice %s of %s: %w", t.Slice, r.ID, err)
	}
	return n, nil
}

// Due lists the rollouts that the driver has to look at: those that run, and
// those whose scheduled time has come.
func (s *Store) Due(ctx context.Context) ([]fleet.Rollout, error) {
	return readRollouts(ctx, s.pool, `
		WHERE r.state = 'running' OR r.state = 'scheduled' AND r.start_at <= clock_timestamp() ORDER BY r.sequence`)
}

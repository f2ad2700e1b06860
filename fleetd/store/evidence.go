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
		if e.Deltas, err = s.waitForDeltas(ctx, tx, r, e.Now); err != nil {
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
			if e.Wave.Members == 0 {
				if e.Proven, e.Beyond, err = proven(ctx, tx, r, w, w.Threshold, e.Now, args); err != nil {
					return fmt.Errorf("look for proof of %s: %w", id, err)
				}
			}
			if e.Away, err = away(ctx, tx, r, w, e.Wave, e.Proven, e.Now, args); err != nil {
				return err
			}
		}
		e.Window, e.Newest, err = outcomes(ctx, tx, r, e, args)
		return err
	})
	return r, e, err
}

// outcomes tallies the outcomes within the breaker's window, and the newest
// ones since the start or the newest resume.
func outcomes(ctx context.Context, tx pgx.Tx, r fleet.Rollout, e fleet.Evidence, args []any) (window, newest []fleet.Tally, err error) {
	begun := r.ResumedAt // zero: nobody reported before the start anyway
	since := e.Now.Add(-time.Duration(r.Policy.Breaker.Window))
	if begun.After(since) {
		since = begun
	}
	if window, err = tallies(ctx, tx, r, e, windowTallies, since); err != nil {
		return nil, nil, err
	}
	if newest, err = tallies(ctx, tx, r, e, newestTallies, begun, r.Policy.Breaker.MinSample, max(newestLimit, r.Policy.Breaker.MinSample)); err != nil {
		return nil, nil, err
	}
	reached := int64(-1)
	for _, list := range [][]fleet.Tally{window, newest} {
		for i := range list {
			t := &list[i]
			if t.Failures == 0 || t.Sample >= r.Policy.Breaker.MinSample && t.Sample >= fleet.SliceFloor {
				t.Members, t.Reached = t.Sample, t.Sample // does not matter
				continue
			}
			if reached < 0 {
				if reached, err = countMembers(ctx, tx, r, fleet.Tally{}, args); err != nil {
					return nil, nil, err
				}
			}
			t.Members, t.Reached = reached, reached
			if t.Slice != "" {
				if t.Members, err = countMembers(ctx, tx, r, *t, args); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	return window, newest, nil
}

// newestLimit bounds how many outcomes are looked at for the newest ones of
// each slice.
const newestLimit = 5000

// outcome is the outcomes since $2, silent devices among them; limit bounds
// the others.
func outcome(limit string) string {
	return `
		WITH outcome AS (
			(SELECT model, hardware, region, from_version, outcome <> 'committed' AS failure, outcome_reason AS reason, outcome_at AS at
			FROM rollout_device WHERE rollout = $1 AND outcome_at > $2 AND outcome IS NOT NULL ` + limit + `)
			UNION ALL
			SELECT o.model, o.hardware, o.region, o.from_version, true, 'silent', o.silent_at
			FROM (
				SELECT o.*, c.last_contact, greatest(o.reported_at, o.until_at, $4::timestamptz) + ` + silentAfter + ` * interval '1 second' AS silent_at
				FROM rollout_device o JOIN rollout r ON r.id = o.rollout JOIN device d ON d.id = o.device LEFT JOIN contact c ON c.device = o.device
				WHERE o.rollout = $1 AND o.state NOT IN ('committed', 'failed', 'rolled_back')
			) o
			WHERE o.silent_at > $2 AND o.silent_at <= $3
				AND (o.state <> 'waiting' OR o.until_at IS NOT NULL AND o.last_contact >= o.until_at)
				AND (o.outcome IS NULL OR o.outcome_at <= $2)
		)`
}

var (
	windowTallies = outcome("") + `
		SELECT CASE GROUPING(model, hardware, region, from_version) WHEN 7 THEN 'model' WHEN 11 THEN 'hardware' WHEN 13 THEN 'region' WHEN 14 THEN 'from' ELSE '' END,
			coalesce(model, hardware, region, from_version, ''), count(*), count(*) FILTER (WHERE failure),
			coalesce((array_agg(reason ORDER BY at) FILTER (WHERE failure))[1], '')
		FROM outcome
		GROUP BY GROUPING SETS ((), (model), (hardware), (region), (from_version))
		ORDER BY GROUPING(model, hardware, region, from_version) DESC, 4 DESC, 2`

	newestTallies = outcome("ORDER BY outcome_at DESC LIMIT $6") + `
		SELECT s.slice, s.value, count(*), count(*) FILTER (WHERE failure), coalesce((array_agg(reason ORDER BY at) FILTER (WHERE failure))[1], '')
		FROM (
			SELECT *, row_number() OVER (ORDER BY at DESC) AS n,
				row_number() OVER (PARTITION BY model ORDER BY at DESC) AS n_model,
				row_number() OVER (PARTITION BY hardware ORDER BY at DESC) AS n_hardware,
				row_number() OVER (PARTITION BY region ORDER BY at DESC) AS n_region,
				row_number() OVER (PARTITION BY from_version ORDER BY at DESC) AS n_from
			FROM outcome
		) o, LATERAL (VALUES ('', '', n), ('model', model, n_model), ('hardware', hardware, n_hardware),
			('region', region, n_region), ('from', from_version, n_from)) AS s (slice, value, place)
		WHERE s.place <= $5
		GROUP BY 1, 2 ORDER BY s.slice = '' DESC, 4 DESC, 1, 2`
)

// tallies reads what one of the two statements finds since a time, without
// their numbers of members.
func tallies(ctx context.Context, tx pgx.Tx, r fleet.Rollout, e fleet.Evidence, statement string, since time.Time, further ...any) ([]fleet.Tally, error) {
	rows, err := tx.Query(ctx, statement, append([]any{r.ID, since, e.Now, optional(r.ResumedAt)}, further...)...)
	if err != nil {
		return nil, fmt.Errorf("tally outcomes of %s: %w", r.ID, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t fleet.Tally, err error) {
		err = row.Scan(&t.Slice, &t.Value, &t.Sample, &t.Failures, &t.FirstReason)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("tally outcomes of %s: %w", r.ID, err)
	}
	return slices.DeleteFunc(found, func(t fleet.Tally) bool {
		return t.Slice != "" && !slices.Contains(r.Policy.Breaker.Slices, t.Slice)
	}), nil
}

// countMembers counts the devices of a slice in the waves opened so far, as far
// as that matters to its sample.
func countMembers(ctx context.Context, tx pgx.Tx, r fleet.Rollout, t fleet.Tally, args []any) (n int64, err error) {
	column := map[string]string{
		"": "''", fleet.SliceModel: "e.model", fleet.SliceHardware: "e.hardware", fleet.SliceRegion: "e.region", fleet.SliceFrom: "e.from_version",
	}[t.Slice]
	err = tx.QueryRow(ctx, eligibleMembers+`
		SELECT count(*) FROM (
			SELECT FROM eligible e JOIN rollout_wave w ON `+inWave+` WHERE e.present_until >= w.opened_at AND `+column+` = $9 LIMIT $10) x`,
		append(args[:8:8], t.Value, max(r.Policy.Breaker.MinSample, fleet.SliceFloor))...).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count slice %s of %s: %w", t.Slice, r.ID, err)
	}
	return n, nil
}

// Due lists the rollouts that the driver has to look at: those that run, those
// whose scheduled time has come, and completed ones with late devices.
func (s *Store) Due(ctx context.Context) ([]fleet.Rollout, error) {
	return readRollouts(ctx, s.pool, `
		WHERE r.state = 'running' OR r.state = 'scheduled' AND r.start_at <= clock_timestamp()
			OR r.state = 'completed' AND EXISTS (SELECT FROM rollout_device WHERE rollout = r.id AND outcome IS NOT NULL
				AND outcome_at > greatest(r.finished_at, clock_timestamp() - interval '1 hour'))
		ORDER BY r.sequence`)
}

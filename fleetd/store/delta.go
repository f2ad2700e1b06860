package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// PlanDeltas counts what devices run that a rollout is to move, and notes the deltas that
// are to be made, for one rollout that was not looked at for so long; its id, or "" when
// there is none. It counts outside of the change, so that nobody waits for it.
func (s *Store) PlanDeltas(ctx context.Context, again time.Duration) (id string, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT r.id FROM rollout r JOIN release l ON l.name = r.release AND l.version = r.version
		WHERE r.state IN ('scheduled', 'running', 'paused') AND l.index_sha256 IS NOT NULL
			AND (r.deltas_at IS NULL OR r.deltas_at < clock_timestamp() - $1::interval)
		ORDER BY r.deltas_at NULLS FIRST LIMIT 1`, again).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find rollouts to plan deltas for: %w", err)
	}
	var release fleet.Release
	var wanted []fleet.DeltaSource
	err = s.view(ctx, func(tx pgx.Tx) error {
		r, err := readRollout(ctx, tx, id)
		if err != nil {
			return err
		}
		if release, err = readRelease(ctx, tx, r.Release, r.Version); err != nil {
			return err
		}
		sources, err := deltaSources(ctx, tx, r, release)
		wanted = fleet.Wanted(sources, s.options.Deltas)
		return err
	})
	if err != nil {
		return id, err
	}
	return id, s.change(ctx, func(tx pgx.Tx) error {
		for _, w := range wanted {
			// One that was given up long ago gets another chance: fleetd, or what it
			// may use, can be another by now.
			_, err := tx.Exec(ctx, `
				INSERT INTO delta AS x (target, source, devices) VALUES ($1, $2, $3)
				ON CONFLICT (target, source) DO UPDATE SET devices = $3,
					state = CASE WHEN `+forgotten+` THEN 'pending' ELSE x.state END,
					attempts = CASE WHEN `+forgotten+` THEN 0 ELSE x.attempts END,
					finished_at = CASE WHEN `+forgotten+` THEN NULL ELSE x.finished_at END`, release.SHA256, w.Artifact, w.Devices)
			if err != nil {
				return fmt.Errorf("plan deltas of %s: %w", id, err)
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE rollout SET deltas_at = clock_timestamp() WHERE id = $1`, id); err != nil {
			return fmt.Errorf("plan deltas of %s: %w", id, err)
		}
		return nil
	})
}

// forgotten says of a delta x that it was given up long ago.
const forgotten = `(x.state = 'failed' AND x.finished_at < clock_timestamp() - interval '1 day')`

// ofActive says of a delta x that a rollout waits for it that moves devices, or will.
const ofActive = `EXISTS (
	SELECT FROM rollout r JOIN release l ON l.name = r.release AND l.version = r.version
	WHERE l.sha256 = x.target AND l.index_sha256 IS NOT NULL AND r.state IN ('scheduled', 'running', 'paused'))`

// ClaimDelta leases the delta that most devices wait for: a plain one, or if there is none to
// be made, one that looks through compression. ok is false when there is neither. A lease that ran out is an attempt that failed, for its maker is gone.
func (s *Store) ClaimDelta(ctx context.Context, holder string, lease time.Duration) (job fleet.DeltaJob, ok bool, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE delta SET state = 'failed', finished_at = clock_timestamp(), leased_until = NULL, holder = '',
				error = 'given up: who made it was gone before it was done, ' || attempts || ' times'
			WHERE state = 'running' AND leased_until <= clock_timestamp() AND attempts >= $1`, fleet.DeltaAttempts)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			UPDATE delta SET state = 'running', holder = $1, leased_until = clock_timestamp() + $2::interval, attempts = attempts + 1
			WHERE (target, source) = (
				SELECT x.target, x.source FROM delta x
				WHERE (x.state = 'pending' AND (x.leased_until IS NULL OR x.leased_until <= clock_timestamp())
					OR x.state = 'running' AND x.leased_until <= clock_timestamp()) AND `+ofActive+`
				ORDER BY x.devices DESC, x.created_at, x.source LIMIT 1 FOR UPDATE SKIP LOCKED)
			RETURNING target, source, attempts`, holder, lease)
		if err != nil {
			return err
		}
		job = fleet.DeltaJob{Holder: holder}
		err = pgxOne(rows, &job.Target.SHA256, &job.Source.SHA256, &job.Attempt)
		if errors.Is(err, pgx.ErrNoRows) {
			if ok, err = claimThrough(ctx, tx, &job, lease); !ok {
				return err
			}
		}
		if err != nil {
			return err
		}
		if ok = true; !job.Through {
			if err := tx.QueryRow(ctx, `SELECT coalesce(`+coderFor("$1")+`, '')`, job.Target.SHA256).Scan(&job.Coder); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `
			SELECT t.length, t.index_length, t.index_sha256, a.length
			FROM release t, artifact a WHERE t.sha256 = $1 AND t.index_sha256 IS NOT NULL AND a.sha256 = $2 LIMIT 1`, job.Target.SHA256, job.Source.SHA256).
			Scan(&job.Target.Length, &job.Index.Length, &job.Index.SHA256, &job.Source.Length)
	})
	if err != nil {
		return job, false, fmt.Errorf("claim a delta: %w", err)
	}
	return job, ok, nil
}

// coderFor is what the newest rollout says that brings an artifact; null: none says anything.
func coderFor(target string) string {
	return `(SELECT r.policy->>'delta_coder' FROM rollout r JOIN release l ON l.name = r.release AND l.version = r.version
		WHERE l.sha256 = ` + target + ` AND r.state IN ('scheduled', 'running', 'paused') AND r.policy ? 'delta_coder'
		ORDER BY r.sequence DESC LIMIT 1)`
}

// Sleepy reports whether at least half of the devices that run an artifact sleep between
// their check-ins, by some thousands of them.
func (s *Store) Sleepy(ctx context.Context, artifact string) (sleepy bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT count(*) > 0 AND 2 * count(*) FILTER (WHERE c.mode = $2) >= count(*) FROM (
			SELECT c.mode
			FROM release l JOIN device_version v ON v.component = l.component AND v.sort_key = l.sort_key AND v.version = l.version
			JOIN contact c ON c.device = v.device
			WHERE l.sha256 = $1 LIMIT 10000) c`, artifact, string(topics.ModePolling)).Scan(&sleepy)
	if err != nil {
		return false, fmt.Errorf("find out how devices live that run %.12s: %w", artifact, err)
	}
	return sleepy, nil
}

// pgxOne reads the only row, or pgx.ErrNoRows.
func pgxOne(rows pgx.Rows, into ...any) error {
	_, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) { return struct{}{}, row.Scan(into...) })
	return err
}

// RenewDelta makes a lease longer. fleet.ErrFenced: it is another's by now.
func (s *Store) RenewDelta(ctx context.Context, job fleet.DeltaJob, lease time.Duration) error {
	if job.Through {
		return s.renewThrough(ctx, job, lease)
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE delta SET leased_until = clock_timestamp() + $5::interval
		WHERE target = $1 AND source = $2 AND state = 'running' AND holder = $3 AND attempts = $4`,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt, lease)
	return leased(tag.RowsAffected(), err, job)
}

func leased(rows int64, err error, job fleet.DeltaJob) error {
	if err == nil && rows == 0 {
		err = fleet.ErrFenced
	}
	if err != nil {
		return fmt.Errorf("delta from %.12s to %.12s: %w", job.Source.SHA256, job.Target.SHA256, err)
	}
	return nil
}

// FinishDelta notes what became of a job. fleet.ErrFenced: it is another's by now. The
// delta must be stored already; devices hear of it by PublishDeltas.
func (s *Store) FinishDelta(ctx context.Context, job fleet.DeltaJob, r fleet.DeltaResult) error {
	if job.Through {
		return s.finishThrough(ctx, job, r)
	}
	var length *int64
	var digest *string
	if r.State != fleet.DeltaFailed {
		length, digest = &r.Delta.Length, &r.Delta.SHA256
	}
	var expandedLength *int64
	var expandedDigest *string
	if r.Expanded != nil && r.State == fleet.DeltaReady {
		expandedLength, expandedDigest = &r.Expanded.Length, &r.Expanded.SHA256
	}
	through := ""
	switch {
	case r.State == fleet.DeltaFailed:
	case r.Later:
		through = "pending"
	default:
		through = "done"
	}
	again := r.State == fleet.DeltaFailed && r.Again && job.Attempt < fleet.DeltaAttempts
	state, pause := r.State, time.Duration(0)
	if again {
		state, pause = fleet.DeltaPending, time.Duration(job.Attempt)*time.Minute
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE delta SET state = $5, length = $6, sha256 = $7, coder = $8, seconds = $9, peak = $10, error = $11, holder = '',
			leased_until = CASE WHEN $12 THEN clock_timestamp() + $13::interval END,
			finished_at = CASE WHEN NOT $12 THEN clock_timestamp() END,
			expanded_length = $14, expanded_sha256 = $15, plain_useless = $16, expanded_listed = false,
			expanded_state = $17, expanded_attempts = 0, expanded_holder = '', expanded_until = NULL, expanded_error = '',
			expanded_at = CASE WHEN $17 = 'done' THEN clock_timestamp() END
		WHERE target = $1 AND source = $2 AND state = 'running' AND holder = $3 AND attempts = $4`,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt,
		string(state), length, digest, r.Coder, r.Seconds, r.Peak, storable(r.Error), again, pause, expandedLength, expandedDigest, r.PlainUseless, through)
	return leased(tag.RowsAffected(), err, job)
}

// ReturnDelta lets another begin a job at once that was not done, through no fault of it.
func (s *Store) ReturnDelta(ctx context.Context, job fleet.DeltaJob) error {
	if job.Through {
		return s.returnThrough(ctx, job)
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE delta SET state = 'pending', leased_until = NULL, holder = '', attempts = attempts - 1
		WHERE target = $1 AND source = $2 AND state = 'running' AND holder = $3 AND attempts = $4`,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt)
	return leased(tag.RowsAffected(), err, job)
}

package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// claimThrough leases a delta that is to look through compression, where the plain one is
// there already, and no rollout's policy is against it; ok is false when there is none.
func claimThrough(ctx context.Context, tx pgx.Tx, job *fleet.DeltaJob, lease time.Duration) (ok bool, err error) {
	_, err = tx.Exec(ctx, `
		UPDATE delta SET expanded_state = 'failed', expanded_at = clock_timestamp(), expanded_until = NULL, expanded_holder = '',
			expanded_error = 'given up: who made it was gone before it was done, ' || expanded_attempts || ' times'
		WHERE expanded_state = 'running' AND expanded_until <= clock_timestamp() AND expanded_attempts >= $1`, fleet.DeltaAttempts)
	if err != nil {
		return false, err
	}
	rows, err := tx.Query(ctx, `
		UPDATE delta SET expanded_state = 'running', expanded_holder = $1, expanded_until = clock_timestamp() + $2::interval,
			expanded_attempts = expanded_attempts + 1
		WHERE (target, source) = (
			SELECT x.target, x.source FROM delta x
			WHERE (x.expanded_state = 'pending' AND (x.expanded_until IS NULL OR x.expanded_until <= clock_timestamp())
				OR x.expanded_state = 'running' AND x.expanded_until <= clock_timestamp()) AND `+ofActive+`
				AND coalesce(`+coderFor("x.target")+`, '') NOT LIKE '`+fleet.CoderPlain+`%'
			ORDER BY x.devices DESC, x.created_at, x.source LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING target, source, expanded_attempts, length, sha256, coder, seconds`, job.Holder, lease)
	if err != nil {
		return false, err
	}
	err = pgxOne(rows, &job.Target.SHA256, &job.Source.SHA256, &job.Attempt, &job.Plain.Length, &job.Plain.SHA256, &job.Coder, &job.Took)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	job.Through = true
	return err == nil, err
}

// ofThrough is whose lease it must be: $1 to $4.
const ofThrough = `WHERE target = $1 AND source = $2 AND expanded_state = 'running' AND expanded_holder = $3 AND expanded_attempts = $4`

func (s *Store) renewThrough(ctx context.Context, job fleet.DeltaJob, lease time.Duration) error {
	tag, err := s.pool.Exec(ctx, `UPDATE delta SET expanded_until = clock_timestamp() + $5::interval `+ofThrough,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt, lease)
	return leased(tag.RowsAffected(), err, job)
}

func (s *Store) returnThrough(ctx context.Context, job fleet.DeltaJob) error {
	tag, err := s.pool.Exec(ctx, `
		UPDATE delta SET expanded_state = 'pending', expanded_until = NULL, expanded_holder = '', expanded_attempts = expanded_attempts - 1 `+ofThrough,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt)
	return leased(tag.RowsAffected(), err, job)
}

// finishThrough notes what became of a delta that looks through compression. The plain one
// stays as it is, whatever that is; if it was useless, the new one is now what is ready.
func (s *Store) finishThrough(ctx context.Context, job fleet.DeltaJob, r fleet.DeltaResult) error {
	var length *int64
	var digest *string
	if r.Expanded != nil && r.State == fleet.DeltaReady {
		length, digest = &r.Expanded.Length, &r.Expanded.SHA256
	}
	state, pause := "done", time.Duration(0)
	again := r.State == fleet.DeltaFailed && r.Again && job.Attempt < fleet.DeltaAttempts
	switch {
	case again:
		state, pause = "pending", time.Duration(job.Attempt)*time.Minute
	case r.State == fleet.DeltaFailed:
		state = "failed"
	}
	tag, err := s.pool.Exec(ctx, `
		UPDATE delta SET expanded_state = $5, expanded_length = $6, expanded_sha256 = $7, expanded_error = $8, expanded_holder = '',
			expanded_until = CASE WHEN $9 THEN clock_timestamp() + $10::interval END,
			expanded_at = CASE WHEN NOT $9 THEN clock_timestamp() END,
			peak = greatest(peak, $11),
			plain_useless = state = 'useless' AND $7::text IS NOT NULL,
			finished_at = CASE WHEN state = 'useless' AND $7::text IS NOT NULL THEN clock_timestamp() ELSE finished_at END,
			state = CASE WHEN state = 'useless' AND $7::text IS NOT NULL THEN 'ready' ELSE state END `+ofThrough,
		job.Target.SHA256, job.Source.SHA256, job.Holder, job.Attempt, state, length, digest, storable(r.Error), again, pause, r.Peak)
	return leased(tag.RowsAffected(), err, job)
}

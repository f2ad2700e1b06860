package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// SumPass is how far a pass of SumTransfers over all rollouts has come. Zero: at its
// beginning, or at its end.
type SumPass struct {
	sequence int64  // of the rollout
	device   string // that was looked at last
}

// SumTransfers goes on with a pass: of up to limit devices of one rollout that has been
// over for as long as keep it adds what they said of bytes to the rollout's sums, deletes
// the rows, and notes up to which attempt that is done: all in one transaction, so that
// the rollout looks the same before and after, and whoever is killed leaves nothing half
// done. It returns how many rows are gone. Several may run at once.
//
// A device's turn has come when it has said nothing for as long as keep, and, if the
// rollout is completed, is not within an attempt that has a row. One that fell silent
// there keeps its rows: what it says when it comes back is about the whole attempt, and
// takes the row's place. So does one that has left the cohorts and made rows since: its
// state is not known. Of a rollout that was cancelled or reverted nothing is to come, and
// agents that were told to stop end no attempt: the silence is enough. One that begins
// another attempt after its turn makes new rows, which are added at their time. A status
// that comes once more, or only now, about an attempt up to the one noted changes nothing.
func (s *Store) SumTransfers(ctx context.Context, keep time.Duration, at SumPass, limit int) (next SumPass, rows int64, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		next, rows, err = sumTransfers(ctx, tx, keep, at, limit)
		return err
	})
	if err != nil {
		return at, 0, fmt.Errorf("sum transfers: %w", err)
	}
	return next, rows, nil
}

// over is the rollouts whose devices may be summed. A completed one that is taken up again
// later has sums and rows.
var over = states([]fleet.State{fleet.Completed, fleet.Cancelled, fleet.Reverted})

func sumTransfers(ctx context.Context, tx pgx.Tx, keep time.Duration, at SumPass, limit int) (next SumPass, rows int64, err error) {
	var id, release, version string
	var forGood bool
	err = tx.QueryRow(ctx, `
		SELECT r.sequence, r.id, r.release, r.version, r.state <> 'completed' FROM rollout r
		WHERE r.state = ANY($1) AND r.finished_at <= clock_timestamp() - $2::interval AND r.sequence >= $3
			AND EXISTS (SELECT FROM transfer t WHERE t.rollout = r.id AND t.device > CASE WHEN r.sequence = $3 THEN $4 ELSE '' END)
		ORDER BY r.sequence LIMIT 1`, over, keep, at.sequence, at.device).Scan(&next.sequence, &id, &release, &version, &forGood)
	if errors.Is(err, pgx.ErrNoRows) {
		return SumPass{}, 0, nil
	}
	if err != nil {
		return next, 0, err
	}
	after := ""
	if next.sequence == at.sequence {
		after = at.device
	}
	devices, err := texts(ctx, tx, `SELECT DISTINCT device FROM transfer WHERE rollout = $1 AND device > $2 ORDER BY device LIMIT $3`, id, after, limit)
	if err != nil {
		return next, 0, err
	}
	if len(devices) == 0 { // another was quicker
		return SumPass{sequence: next.sequence + 1}, 0, nil
	}
	next.device = devices[len(devices)-1]
	// Whoever writes rows holds this lock: from here on there are none that the next
	// statement does not see. Who is locked is being written or summed.
	devices, err = texts(ctx, tx, `
		SELECT device FROM rollout_device o
		WHERE rollout = $1 AND device = ANY($2) AND reported_at <= clock_timestamp() - $3::interval
			AND ($4 OR NOT EXISTS (
				SELECT FROM transfer t WHERE t.rollout = o.rollout AND t.device = o.device AND CASE
					WHEN o.state IN ('committed', 'failed', 'rolled_back') THEN (t.epoch, t.attempt) > (o.epoch, o.attempt)
					ELSE (t.epoch, t.attempt) >= (o.epoch, o.attempt) END))
		ORDER BY device FOR NO KEY UPDATE OF o SKIP LOCKED`, id, devices, keep, forGood)
	if err != nil || len(devices) == 0 {
		return next, 0, err
	}
	r, err := readRelease(ctx, tx, release, version)
	if err != nil {
		return next, 0, err
	}
	err = tx.QueryRow(ctx, addTransfers, id, r.Length, devices).Scan(&rows)
	return next, rows, err
}

var addTransfers = `
	WITH gone AS (
		DELETE FROM transfer WHERE rollout = $1 AND device = ANY($3) RETURNING *
	), noted AS (
		UPDATE rollout_device o SET summed_epoch = g.epoch, summed_attempt = g.attempt
		FROM (SELECT DISTINCT ON (device) device, epoch, attempt FROM gone ORDER BY device, epoch DESC, attempt DESC) g
		WHERE o.rollout = $1 AND o.device = g.device
	), added AS (
		INSERT INTO transfer_sum AS s (rollout, region, devices, local, delta, packed, "full", peer, index, saved)
		SELECT $1, g.* FROM (` + transferSums("gone") + `) g ORDER BY region
		ON CONFLICT (rollout, region) DO UPDATE SET devices = s.devices + excluded.devices,
			local = s.local + excluded.local, delta = s.delta + excluded.delta, packed = s.packed + excluded.packed,
			"full" = s."full" + excluded."full", peer = s.peer + excluded.peer, index = s.index + excluded.index, saved = s.saved + excluded.saved
	)
	SELECT count(*) FROM gone`

func texts(ctx context.Context, tx pgx.Tx, query string, args ...any) ([]string, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// transferRow is what a device says where the bytes of an attempt came from.
type transferRow struct {
	Rollout  string `json:"rollout"`
	Device   string `json:"device"`
	Epoch    int64  `json:"epoch"`
	Attempt  int    `json:"attempt"`
	Sequence int64  `json:"sequence"`
	Whole    bool   `json:"whole"`
	Local    int64  `json:"local"`
	Delta    int64  `json:"delta"`
	Packed   int64  `json:"packed"`
	Full     int64  `json:"full"`
	Peer     int64  `json:"peer"`
	Index    int64  `json:"index"`
}

type attemptKey struct {
	rollout, device string
	epoch           int64
	attempt         int
}

// transfer notes what a status says about bytes. One that only failed may not have got
// the whole artifact; if it has, an earlier status of the attempt says so.
func (u *uplink) transfer(m message, p topics.Status) {
	if p.Transfer == nil {
		return
	}
	t := *p.Transfer
	whole := p.State != topics.StateWaiting && p.State != topics.StateDownloading && p.State != topics.StateFailed
	row := transferRow{p.Rollout, m.device, p.Epoch, p.Attempt, p.Sequence, whole, t.Local, t.Delta, t.Packed, t.Full, t.Peer, t.Index}
	u.transfers.put(attemptKey{p.Rollout, m.device, p.Epoch, p.Attempt}, row, func(old, new transferRow) transferRow {
		whole := old.Whole || new.Whole
		if old.Sequence > new.Sequence {
			new = old
		}
		new.Whole = whole
		return new
	})
}

// Only of what counts in the rollout: after writeStandings. What is in the rollout's sums
// already is not written again; who sums holds the device's lock (see SumTransfers).
const writeTransfers = `
	INSERT INTO transfer AS t (rollout, device, epoch, attempt, sequence, region, whole, local, delta, packed, "full", peer, index, again)
	SELECT o.rollout, o.device, n.epoch, n.attempt, n.sequence, o.region, n.whole, n.local, n.delta, n.packed, n."full", n.peer, n.index,
		o.summed_epoch IS NOT NULL
	FROM json_to_recordset($1) AS n (rollout text, device text, epoch bigint, attempt integer, sequence bigint, whole boolean,
		local bigint, delta bigint, packed bigint, "full" bigint, peer bigint, index bigint)
	JOIN rollout_device o ON o.rollout = n.rollout AND o.device = n.device
	WHERE o.summed_epoch IS NULL OR (o.summed_epoch, o.summed_attempt) < (n.epoch, n.attempt)
	ORDER BY n.device COLLATE "C"
	FOR NO KEY UPDATE OF o
	ON CONFLICT (rollout, device, epoch, attempt) DO UPDATE SET
		sequence = greatest(t.sequence, excluded.sequence), whole = t.whole OR excluded.whole,
		local = CASE WHEN t.sequence < excluded.sequence THEN excluded.local ELSE t.local END,
		delta = CASE WHEN t.sequence < excluded.sequence THEN excluded.delta ELSE t.delta END,
		packed = CASE WHEN t.sequence < excluded.sequence THEN excluded.packed ELSE t.packed END,
		"full" = CASE WHEN t.sequence < excluded.sequence THEN excluded."full" ELSE t."full" END,
		peer = CASE WHEN t.sequence < excluded.sequence THEN excluded.peer ELSE t.peer END,
		index = CASE WHEN t.sequence < excluded.sequence THEN excluded.index ELSE t.index END
	WHERE t.sequence < excluded.sequence OR excluded.whole AND NOT t.whole`

// transferSums sums rows of a rollout's transfer by region, as they stand in transfer_sum.
// $2 is the length of the artifact.
func transferSums(rows string) string {
	return `
		SELECT region, count(DISTINCT device) FILTER (WHERE NOT again) AS devices, sum(local) AS local, sum(delta) AS delta, sum(packed) AS packed,
			sum("full") AS "full", sum(peer) AS peer, sum(index) AS index,
			sum(CASE WHEN whole AND delta > 0 THEN $2::bigint - delta - packed - "full" - peer - index ELSE 0 END) AS saved
		FROM ` + rows + ` GROUP BY region`
}

// total sums a column; devices can lie, and bigint ends somewhere.
func total(of string) string {
	return `greatest(least(sum(` + of + `), 1000000000000000000), -1000000000000000000)::bigint`
}

// Of the rows that are there, and of those that were.
var readTransfers = `
	SELECT region, ` + total("devices") + `, ` + total("local") + `, ` + total("delta") + `, ` + total("packed") + `, ` + total(`"full"`) + `, ` +
	total("peer") + `, ` + total("index") + `, ` + total("saved") + `
	FROM (` + transferSums(`transfer WHERE rollout = $1`) + `
		UNION ALL SELECT region, devices, local, delta, packed, "full", peer, index, saved FROM transfer_sum WHERE rollout = $1) s
	GROUP BY region ORDER BY region`

// describeTransfers sums, by region, where the bytes of a rollout came from. Its cost
// grows with the number of devices that reported it and are not in its sums yet.
func describeTransfers(ctx context.Context, tx pgx.Tx, r *fleet.Rollout) error {
	if r.StartedAt.IsZero() {
		return nil
	}
	release, err := readRelease(ctx, tx, r.Release, r.Version)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, readTransfers, r.ID, release.Length)
	if err != nil {
		return fmt.Errorf("sum the bytes of %s: %w", r.ID, err)
	}
	r.Transfers, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t fleet.TransferSum, err error) {
		err = row.Scan(&t.Region, &t.Devices, &t.Local, &t.Delta, &t.Packed, &t.Full, &t.Peer, &t.Index, &t.Saved)
		return t, err
	})
	if err != nil {
		return fmt.Errorf("sum the bytes of %s: %w", r.ID, err)
	}
	return nil
}

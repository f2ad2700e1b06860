package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// maxListed is how many deltas an index lists at most: topics.MaxDeltaIndex holds them.
const maxListed = 600

// UnlistedDeltas is the delta index of an artifact that is to be made anew: there are
// deltas that it does not list, and no further ones are to be made, or have been for so
// long; sooner when a rollout's first wave waits. Or a replica of an older version has made
// it, which does not list all. ok is false when there is none.
func (s *Store) UnlistedDeltas(ctx context.Context, patience, sooner time.Duration) (x topics.DeltaIndex, ok bool, err error) {
	var target string
	err = s.pool.QueryRow(ctx, `
		SELECT x.target FROM (
			SELECT target, finished_at AS since, true AS first FROM delta WHERE state = 'ready' AND NOT listed
			UNION ALL
			SELECT target, coalesce(expanded_at, finished_at), false FROM delta
			WHERE state = 'ready' AND expanded_sha256 IS NOT NULL AND NOT expanded_listed AND listed) x
		GROUP BY x.target HAVING min(x.since) <= clock_timestamp() - $1::interval
			OR NOT EXISTS (SELECT FROM delta o WHERE o.target = x.target AND o.state IN ('pending', 'running'))
				AND (bool_or(x.first) OR NOT EXISTS (SELECT FROM delta o WHERE o.target = x.target AND o.expanded_state IN ('pending', 'running')))
			OR min(x.since) <= clock_timestamp() - $2::interval AND EXISTS (
				SELECT FROM rollout r JOIN release l ON l.name = r.release AND l.version = r.version
				WHERE l.sha256 = x.target AND r.state = 'running'
					AND NOT EXISTS (SELECT FROM rollout_wave w WHERE w.rollout = r.id AND w.state <> 'pending'))
		ORDER BY min(x.since) LIMIT 1`, patience, sooner).Scan(&target)
	if errors.Is(err, pgx.ErrNoRows) {
		err = s.pool.QueryRow(ctx, `
			SELECT i.target FROM delta_index i WHERE i.sha256 IS DISTINCT FROM i.whole_sha256
				AND EXISTS (SELECT FROM delta x WHERE x.target = i.target AND x.state = 'ready' AND x.expanded_sha256 IS NOT NULL)
			ORDER BY i.made_at LIMIT 1`).Scan(&target)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return x, false, nil
	}
	if err != nil {
		return x, false, fmt.Errorf("find deltas to list: %w", err)
	}
	x, err = readDeltas(ctx, s.pool, target)
	return x, err == nil, err
}

// readDeltas reads the delta index that an artifact should have: of both kinds, for the
// most common sources, as many as it holds.
func readDeltas(ctx context.Context, q querier, target string) (topics.DeltaIndex, error) {
	x := topics.DeltaIndex{Schema: topics.Schema, Artifact: target, Deltas: []topics.Delta{}}
	rows, err := q.Query(ctx, `
		SELECT source, length, sha256, plain_useless, coalesce(expanded_length, 0), coalesce(expanded_sha256, '')
		FROM delta WHERE target = $1 AND state = 'ready' ORDER BY devices DESC, source LIMIT $2`, target, maxListed)
	if err != nil {
		return x, fmt.Errorf("read deltas to %.12s: %w", target, err)
	}
	var plain, expanded topics.Delta
	var useless bool
	_, err = pgx.ForEachRow(rows, []any{&plain.From, &plain.Length, &plain.SHA256, &useless, &expanded.Length, &expanded.SHA256}, func() error {
		expanded.From = plain.From
		if !useless && entries(x) < maxListed {
			x.Deltas = append(x.Deltas, plain)
		}
		if expanded.SHA256 != "" && entries(x) < maxListed {
			x.Expanded = append(x.Expanded, expanded)
		}
		return nil
	})
	if err != nil {
		return x, fmt.Errorf("read deltas to %.12s: %w", target, err)
	}
	return x, nil
}

func entries(x topics.DeltaIndex) int { return len(x.Deltas) + len(x.Expanded) }

// PublishDeltas pins a delta index, whose bytes are stored already, in the manifests of
// all cohorts that a rollout brings its artifact to: they are signed anew. fleet.ErrConflict:
// there are other deltas by now, so that it is to be made anew. What is pinned already is not signed
// again.
func (s *Store) PublishDeltas(ctx context.Context, x topics.DeltaIndex, pin topics.Document) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		// One after the other.
		if _, err := tx.Exec(ctx, `INSERT INTO delta_index (target) VALUES ($1) ON CONFLICT DO NOTHING`, x.Artifact); err != nil {
			return fmt.Errorf("publish deltas to %.12s: %w", x.Artifact, err)
		}
		var pinned string
		if err := tx.QueryRow(ctx, `SELECT coalesce(sha256, '') FROM delta_index WHERE target = $1 FOR UPDATE`, x.Artifact).Scan(&pinned); err != nil {
			return fmt.Errorf("publish deltas to %.12s: %w", x.Artifact, err)
		}
		now, err := readDeltas(ctx, tx, x.Artifact)
		if err != nil {
			return err
		}
		if !sameDeltas(x, now) {
			return fmt.Errorf("publish deltas to %.12s: %w", x.Artifact, fleet.ErrConflict)
		}
		if _, err := tx.Exec(ctx, `
			UPDATE delta_index SET length = $2, sha256 = $3, whole_sha256 = $3, made_at = clock_timestamp() WHERE target = $1`, x.Artifact, pin.Length, pin.SHA256); err != nil {
			return fmt.Errorf("publish deltas to %.12s: %w", x.Artifact, err)
		}
		// Not those that are ready since; but of too many, some never find room.
		full := entries(x) == maxListed
		if _, err := tx.Exec(ctx, `
			UPDATE delta SET listed = true, expanded_listed = expanded_sha256 IS NOT NULL AND ($3 OR expanded_sha256 = ANY($4))
			WHERE target = $1 AND state = 'ready' AND ($3 OR source = ANY($2))`, x.Artifact, from(x), full, digests(x.Expanded)); err != nil {
			return fmt.Errorf("publish deltas to %.12s: %w", x.Artifact, err)
		}
		if pinned == pin.SHA256 { // another replica was faster
			return nil
		}
		rows, err := tx.Query(ctx, `
			SELECT DISTINCT rc.cohort FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
			JOIN release l ON l.name = r.release AND l.version = r.version
			WHERE l.sha256 = $1 AND r.state IN ('running', 'paused', 'completed')`, x.Artifact)
		if err != nil {
			return fmt.Errorf("find cohorts: %w", err)
		}
		cohorts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find cohorts: %w", err)
		}
		return s.signManifests(ctx, tx, cohorts)
	})
}

// digests are those of some deltas.
func digests(list []topics.Delta) []string {
	out := make([]string, 0, len(list))
	for _, d := range list {
		out = append(out, d.SHA256)
	}
	return out
}

func from(x topics.DeltaIndex) []string {
	list := make([]string, 0, entries(x))
	for _, d := range slices.Concat(x.Deltas, x.Expanded) {
		list = append(list, d.From)
	}
	return list
}

// sameDeltas: in another order they are the same.
func sameDeltas(a, b topics.DeltaIndex) bool {
	return maps.Equal(bySource(a.Deltas), bySource(b.Deltas)) && maps.Equal(bySource(a.Expanded), bySource(b.Expanded))
}

func bySource(list []topics.Delta) map[string]topics.Document {
	out := make(map[string]topics.Document, len(list))
	for _, d := range list {
		out[d.From] = d.Document
	}
	return out
}

// deltaIndex is what manifests pin for an artifact; nil: nothing.
func deltaIndex(ctx context.Context, q querier, target string) (*topics.Document, error) {
	var d topics.Document
	err := q.QueryRow(ctx, `SELECT length, sha256 FROM delta_index WHERE target = $1 AND length IS NOT NULL`, target).Scan(&d.Length, &d.SHA256)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the delta index of %.12s: %w", target, err)
	}
	return &d, nil
}

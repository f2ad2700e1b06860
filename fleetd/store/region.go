package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/topics"
)

// DefaultRegion is that of a fleet that names none.
const DefaultRegion = "default"

const (
	regionLock  = int64(0x72656769) // "regi"
	lockRegions = `SELECT pg_advisory_xact_lock_shared($1)`
	// fillChunk is how many outbox rows one transaction makes for a new region.
	fillChunk = 5000
)

// addRegions makes sure that the regions of the options exist, and that everything
// signed so far is in the outbox for each of them. One that was retired comes back.
func (s *Store) addRegions(ctx context.Context) error {
	regions := s.options.Regions
	if len(regions) == 0 {
		regions = []string{DefaultRegion}
	}
	var behind bool
	err := s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM unnest($1::text[]) AS n (name) LEFT JOIN region r USING (name)
			WHERE r.filled_at IS NULL OR r.retired_at IS NOT NULL)`, regions).Scan(&behind)
	if err != nil {
		return fmt.Errorf("add regions: %w", err)
	}
	if behind {
		for _, region := range regions {
			if err := s.addRegion(ctx, region); err != nil {
				return fmt.Errorf("add region %s: %w", region, err)
			}
		}
	}
	return s.warnUnserved(ctx, regions)
}

func (s *Store) addRegion(ctx context.Context, region string) error {
	var filled bool
	err := s.change(ctx, func(tx pgx.Tx) error {
		// Exclusive: what was signed by a transaction that did not know of the region
		// is committed now, so the filling sees it.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, regionLock); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			INSERT INTO region AS r (name) VALUES ($1)
			ON CONFLICT (name) DO UPDATE SET retired_at = NULL,
				filled_at = CASE WHEN r.retired_at IS NULL THEN r.filled_at END
			RETURNING filled_at IS NOT NULL`, region).Scan(&filled)
	})
	if err != nil || filled {
		return err
	}
	s.log.Info("region added: all manifests and assignments go to it", "region", region)
	for _, kind := range []topics.Kind{topics.KindManifest, topics.KindAssignment} {
		if err := s.fillRegion(ctx, region, kind); err != nil {
			return err
		}
	}
	_, err = s.pool.Exec(ctx, `UPDATE region SET filled_at = clock_timestamp() WHERE name = $1`, region)
	return err
}

// fillRegion puts everything of a kind into the outbox for a region, in order, so that
// replicas that do the same do not deadlock.
func (s *Store) fillRegion(ctx context.Context, region string, kind topics.Kind) error {
	for after := ""; ; {
		signed, err := s.signedIDs(ctx, kind, after)
		if err != nil || len(signed) == 0 {
			return err
		}
		if err := s.Republish(ctx, region, kind, signed); err != nil {
			return err
		}
		after = signed[len(signed)-1]
	}
}

func (s *Store) signedIDs(ctx context.Context, kind topics.Kind, after string) ([]string, error) {
	query := `SELECT cohort FROM manifest WHERE cohort > $1 ORDER BY cohort LIMIT $2`
	if kind == topics.KindAssignment {
		query = `SELECT device FROM assignment WHERE device > $1 ORDER BY device LIMIT $2`
	}
	rows, err := s.pool.Query(ctx, query, after, fillChunk)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// warnUnserved says which regions' outbox rows this process leaves to others.
func (s *Store) warnUnserved(ctx context.Context, served []string) error {
	rows, err := s.pool.Query(ctx, `SELECT name FROM region WHERE retired_at IS NULL AND name <> ALL ($1) ORDER BY name`, served)
	if err != nil {
		return fmt.Errorf("read regions: %w", err)
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read regions: %w", err)
	}
	if len(others) > 0 {
		s.log.Warn("regions that are in use and not in this configuration: another fleetd has to publish to them", "regions", others)
	}
	return nil
}

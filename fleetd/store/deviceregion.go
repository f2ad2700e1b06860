package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Regions answers for those of the devices that have a region.
func (s *Store) Regions(ctx context.Context, devices []string) (map[string]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, region FROM device WHERE id = ANY($1) AND region <> ''`, devices)
	if err != nil {
		return nil, fmt.Errorf("read regions: %w", err)
	}
	regions := map[string]string{}
	var id, region string
	if _, err := pgx.ForEachRow(rows, []any{&id, &region}, func() error {
		regions[id] = region
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read regions: %w", err)
	}
	return regions, nil
}

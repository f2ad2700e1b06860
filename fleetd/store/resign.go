package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// RenewSignatures makes every manifest and assignment due for signing anew;
// the driver's upkeep then does it, piece by piece. It is for a new director
// root that no longer names the key by which they were signed. It touches a
// row per device.
func (s *Store) RenewSignatures(ctx context.Context, by fleet.Actor, reason string) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		for _, table := range []string{"manifest", "assignment"} {
			if _, err := tx.Exec(ctx, `UPDATE `+table+` SET refresh_at = now() WHERE refresh_at > now()`); err != nil {
				return fmt.Errorf("renew signatures: %w", err)
			}
		}
		return record(ctx, tx, by, "director.resign", "repository/director", 0, 0, map[string]any{"reason": reason})
	})
}

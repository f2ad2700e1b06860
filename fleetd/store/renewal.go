package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// RenewDevice records that a device gets a new certificate, unless it is not known
// (fleet.ErrNotFound) or has ended (fleet.ErrDecommissioned).
func (s *Store) RenewDevice(ctx context.Context, by fleet.Actor, id string, detail map[string]any) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		var ended bool
		// Held until the row of the audit trail is there: of two who are at it at the
		// same time, one is first.
		err := tx.QueryRow(ctx, `SELECT labels ? $2 FROM device WHERE id = $1 FOR SHARE`, id, fleet.LabelDecommissioned).Scan(&ended)
		if err != nil {
			return absent(err, "device", id)
		}
		if ended {
			return fmt.Errorf("device %s: %w", id, fleet.ErrDecommissioned)
		}
		return record(ctx, tx, by, "device.renew", "device/"+id, 0, 0, detail)
	})
}

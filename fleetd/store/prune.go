package store

import (
	"context"
	"fmt"
)

// How long what devices said, and what only served its moment, is kept.
const (
	ReportDays  = 90
	LogDays     = 30
	CommandDays = 30
)

// Prune removes up to limit rows of each kind that are too old to be of use.
// The audit trail and dead letters stay.
func (s *Store) Prune(ctx context.Context, limit int) error {
	for _, p := range []struct {
		table, column string
		days          int
	}{
		{"report", "stored_at", ReportDays},
		{"device_log", "stored_at", LogDays},
		{"idempotency", "created_at", IdempotencyDays},
		{"command", "expires_at", CommandDays},
	} {
		// Not a device's newest command: its version is what the next counts from.
		further := ""
		if p.table == "command" {
			further = ` AND version < (SELECT max(version) FROM command n WHERE n.device = command.device)`
		}
		_, err := s.pool.Exec(ctx, `
			DELETE FROM `+p.table+` WHERE ctid = ANY(ARRAY(
				SELECT ctid FROM `+p.table+` WHERE `+p.column+` < now() - $1 * interval '1 day'`+further+` LIMIT $2))`, p.days, limit)
		if err != nil {
			return fmt.Errorf("prune %s: %w", p.table, err)
		}
	}
	return nil
}

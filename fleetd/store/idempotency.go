package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// IdempotencyDays is how long an idempotency key is remembered.
const IdempotencyDays = 7

// claimKey reserves the actor's idempotency key for object, in the transaction
// that creates the object. When the key was used before for the same request,
// it answers with the object that was made then.
func claimKey(ctx context.Context, tx pgx.Tx, by fleet.Actor, object string) (earlier string, err error) {
	if by.Key == "" {
		return "", nil
	}
	// A second request with the same key waits here until the first commits.
	tag, err := tx.Exec(ctx, `
		INSERT INTO idempotency (actor, key, hash, object) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`, by.Name, by.Key, by.Hash, object)
	if err != nil {
		return "", fmt.Errorf("claim idempotency key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return "", nil
	}
	var hash string
	if err := tx.QueryRow(ctx, `SELECT hash, object FROM idempotency WHERE actor = $1 AND key = $2`, by.Name, by.Key).Scan(&hash, &earlier); err != nil {
		return "", fmt.Errorf("read idempotency key: %w", err)
	}
	if hash != by.Hash {
		return "", fmt.Errorf("the idempotency key was used for another request: %w", fleet.ErrConflict)
	}
	return earlier, nil
}

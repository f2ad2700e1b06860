package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
)

// Lease is the right to do something alone, for a while, by the database's
// clock. Term grows with each change of holder.
type Lease struct {
	Name, Holder string
	Term         int64
	ExpiresAt    time.Time
}

// AcquireLease takes the lease, or renews it for its holder. While another
// holds it, it is fleet.ErrConflict.
func (s *Store) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (Lease, error) {
	l := Lease{Name: name, Holder: holder}
	err := s.pool.QueryRow(ctx, `
		INSERT INTO lease AS l (name, holder, term, expires_at)
		VALUES ($1, $2, 1, clock_timestamp() + $3)
		ON CONFLICT (name) DO UPDATE SET
			holder = $2,
			term = l.term + CASE WHEN l.holder = $2 AND l.expires_at > clock_timestamp() THEN 0 ELSE 1 END,
			expires_at = clock_timestamp() + $3
		WHERE l.holder = $2 OR l.expires_at <= clock_timestamp()
		RETURNING term, expires_at`, name, holder, ttl).Scan(&l.Term, &l.ExpiresAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Lease{}, fmt.Errorf("lease %s is held by another: %w", name, fleet.ErrConflict)
	}
	if err != nil {
		return Lease{}, fmt.Errorf("acquire lease %s: %w", name, err)
	}
	return l, nil
}

// ReleaseLease lets the next holder begin at once. To let go of what another
// holds, or nobody, is no error. It asks for no term: a holder whose last
// attempt to take the lease was cut short does not know it.
func (s *Store) ReleaseLease(ctx context.Context, name, holder string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE lease SET expires_at = clock_timestamp()
		WHERE name = $1 AND holder = $2 AND expires_at > clock_timestamp()`, name, holder)
	if err != nil {
		return fmt.Errorf("release lease %s: %w", name, err)
	}
	return nil
}

// fence makes the transaction fail with fleet.ErrFenced unless the lease is
// still held, and keeps others from taking it before the transaction ends.
func fence(ctx context.Context, tx pgx.Tx, l Lease) error {
	var held bool
	err := tx.QueryRow(ctx, `
		SELECT true FROM lease
		WHERE name = $1 AND holder = $2 AND term = $3 AND expires_at > clock_timestamp()
		FOR SHARE`, l.Name, l.Holder, l.Term).Scan(&held)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("lease %s, term %d: %w", l.Name, l.Term, fleet.ErrFenced)
	}
	return err
}

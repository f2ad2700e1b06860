package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// Signer signs what devices obey, with fleetd's director key. What is above
// topics.MaxPayload when it is signed is topics.ErrTooLarge.
type Signer interface {
	SignManifest(m topics.Manifest, expires time.Time) ([]byte, error)
	SignAssignment(a topics.Assignment, expires time.Time) ([]byte, error)
	SignCommand(c topics.Command, expires time.Time) ([]byte, error)
}

// Options say how to open a store.
type Options struct {
	URL         string // postgres://...
	TrustDomain string
	// Signer nil: whatever has to sign fails.
	Signer Signer
	// Sources are the base URLs of artifacts that assignments name.
	Sources []string
	// Regions are those that everything is published to; Open adds what is not
	// stored yet. None: DefaultRegion.
	Regions []string
	// Deltas is from how many versions deltas are made of one release, the most
	// common first. 0: nobody makes any, so that nobody waits for them.
	Deltas int
	// MaxConns of the pool. 0: 16.
	MaxConns int32
	Log      *slog.Logger // nil: silent
}

// Store is the database. It is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	options Options
	log     *slog.Logger
}

// Open connects. The schema must be there: see package migrations.
func Open(ctx context.Context, o Options) (*Store, error) {
	config, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	config.MaxConns = 16
	if o.MaxConns > 0 {
		config.MaxConns = o.MaxConns
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{pool: pool, options: o, log: o.Log}
	if err := s.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.addRegions(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Close ends all connections.
func (s *Store) Close() { s.pool.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.pool.Ping(ctx) }

// Now is the database's clock.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	err = s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now, err
}

// retries is how often an aborted transaction is tried.
const retries = 8

// change runs do in a transaction, again when PostgreSQL aborted it for a
// conflict with another.
func (s *Store) change(ctx context.Context, do func(tx pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginFunc(ctx, s.pool, do)
		if err == nil || !conflicting(err) || attempt == retries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(time.Duration(attempt) * 20 * time.Millisecond)):
		}
	}
}

// view runs do on one snapshot of the database.
func (s *Store) view(ctx context.Context, do func(tx pgx.Tx) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, s.pool, options, do)
}

// SQLSTATEs, PostgreSQL appendix A.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	foreignKeyViolation  = "23503"
	uniqueViolation      = "23505"
	invalidText          = "22021"
)

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func conflicting(err error) bool {
	state := sqlState(err)
	return state == serializationFailure || state == deadlockDetected
}

// absent turns "no rows" into ErrNotFound.
func absent(err error, what string, id string) error {
	// Nothing is called by a name that PostgreSQL does not take.
	if errors.Is(err, pgx.ErrNoRows) || sqlState(err) == invalidText {
		return fmt.Errorf("%s %q: %w", what, id, fleet.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

// storable makes a text of unknown origin one that PostgreSQL takes.
func storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", ""), "?")
}

// checkFilters returns a FieldError for a filter that PostgreSQL does not take.
func checkFilters(filters map[string]string) error {
	for pointer, text := range filters {
		if text != storable(text) {
			return fleet.Invalid(pointer, "is not a text")
		}
	}
	return nil
}

// moment reads a time that may be absent.
func moment(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// optional writes a time that may be absent.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// lockMembership takes the membership lock until the end of the transaction.
func lockMembership(ctx context.Context, tx pgx.Tx, exclusive bool) error {
	query := `SELECT pg_advisory_xact_lock_shared($1)`
	if exclusive {
		query = `SELECT pg_advisory_xact_lock($1)`
	}
	_, err := tx.Exec(ctx, query, int64(0x6d656d62)) // "memb"
	return err
}

// txNow is the database's clock inside a transaction. Not now(): that is when
// the transaction began, before it waited for locks.
func txNow(ctx context.Context, tx pgx.Tx) (now time.Time, err error) {
	err = tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	return now.UTC(), err
}

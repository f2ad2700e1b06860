// Package migrations holds the database schema: numbered SQL files, applied in
// order, forward only, and Apply, which brings a database up to date.
//
// Any number of replicas may call Apply at once; one applies, the others wait.
// They wait by polling pg_try_advisory_lock: a session that blocks in
// pg_advisory_lock holds a snapshot, and CREATE INDEX CONCURRENTLY in the
// migration that it waits for would wait for that snapshot in turn.
//
// A database whose schema is newer than this binary is left as it is: in the
// middle of an upgrade an old replica must be able to restart. That holds
// because changes come in steps (add, use, remove), so that each schema serves
// the binaries of its release and of the one before.
//
// While it is applied those of before go on. So each migration since 010 is a transaction
// that locks one of the tables in use, and gives up when it has waited for it for two
// seconds, since whoever comes after it waits as well. What was applied before stays:
// Apply returns an error, and goes on from there when it is called again.
//
// The files are Go templates to the library that applies them: two opening
// braces must not occur. schema.sql is the outcome of all of them, for reading
// and for review; a test compares it with a migrated database.
package migrations

import (
	"context"
	"embed"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed [0-9]*.sql
var files embed.FS

// lock is the advisory lock under which migrations are applied, and table
// where the version is kept.
const (
	lock  = 0x67726f756e64 // "ground"
	table = "public.schema_version"
)

// Result is what Apply did.
type Result struct {
	From, To int32 // schema versions; 0 is an empty database
	// Newer: the database is ahead of this binary (To is its version), and
	// nothing was changed.
	Newer bool
}

// Apply brings the database at url up to date. It waits for other replicas
// that do so until ctx ends.
func Apply(ctx context.Context, url string) (Result, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // frees the lock, too
	if err := acquire(ctx, conn); err != nil {
		return Result{}, fmt.Errorf("migrate: wait for the lock: %w", err)
	}
	migrator, err := migrate.NewMigrator(ctx, conn, table)
	if err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	if err := migrator.LoadMigrations(files); err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	from, err := migrator.GetCurrentVersion(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("migrate: %w", err)
	}
	if known := int32(len(migrator.Migrations)); from > known {
		return Result{From: from, To: from, Newer: true}, nil
	}
	if err := migrator.Migrate(ctx); err != nil {
		return Result{}, fmt.Errorf("migrate from version %d: %w", from, err)
	}
	return Result{From: from, To: int32(len(migrator.Migrations))}, nil
}

func acquire(ctx context.Context, conn *pgx.Conn) error {
	for {
		var ok bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lock)).Scan(&ok); err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100*time.Millisecond + rand.N(100*time.Millisecond)):
		}
	}
}

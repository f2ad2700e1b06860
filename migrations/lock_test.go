package migrations_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"groundswell/internal/devstack/devtest"
	"groundswell/migrations"
)

// migratedTo brings a new database to a version.
func migratedTo(t *testing.T, url string, version int32) {
	t.Helper()
	migrator, err := migrate.NewMigrator(t.Context(), connect(t, url), "public.schema_version")
	if err != nil {
		t.Fatal(err)
	}
	if err := migrator.LoadMigrations(os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	if err := migrator.MigrateTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
}

// TestAMigrationLocksOneTableInUse: one that locks two waits for ever for a replica of the
// version before that reads them in the other order. Those up to 009 are as they are.
func TestAMigrationLocksOneTableInUse(t *testing.T) {
	const frozen = 9
	url := devtest.Database(t)
	migratedTo(t, url, frozen)
	conn := connect(t, url)
	files, err := fs.Glob(os.DirFS("."), "[0-9]*.sql")
	if err != nil || len(files) <= frozen {
		t.Fatal(files, err)
	}
	for _, name := range files[frozen:] {
		sql, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		before := strings.Join(column(t, conn, `SELECT oid::text FROM pg_class`), ",")
		if _, err := conn.Exec(t.Context(), `BEGIN; `+string(sql)); err != nil {
			t.Fatal(name, err)
		}
		locked := column(t, conn, `
			SELECT DISTINCT c.relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = pg_backend_pid() AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
				AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.oid::text = ANY(string_to_array('`+before+`', ','))`)
		if len(locked) > 1 {
			t.Errorf("%s locks %v: each belongs into a migration of its own", name, locked)
		}
		if limit := column(t, conn, `SHOW lock_timeout`); len(locked) > 0 && limit[0] == "0" {
			t.Errorf("%s would wait for %v, and others behind it, for as long as somebody reads", name, locked)
		}
		if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
			t.Fatal(name, err)
		}
	}
}

func column(t *testing.T, conn *pgx.Conn, query string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestWhoReadsARolloutMeanwhileGoesOn: as a view of a rollout does, that began before.
func TestWhoReadsARolloutMeanwhileGoesOn(t *testing.T) {
	url := devtest.Database(t)
	migratedTo(t, url, 9)
	reader := connect(t, url)
	read := func(query string) {
		t.Helper()
		if _, err := reader.Exec(t.Context(), query); err != nil {
			t.Fatal(query, err)
		}
	}
	read(`BEGIN; SELECT FROM transfer`)
	done := make(chan error, 1)
	apply := func() {
		go func() {
			_, err := migrations.Apply(t.Context(), url)
			done <- err
		}()
	}
	other := connect(t, url)
	apply()
	devtest.Eventually(t, 0, "it to wait for the reader", devtest.True(func() bool {
		select {
		case <-done: // it has given up before anybody looked
			apply()
		default:
		}
		var waits bool
		err := other.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'transfer'::regclass AND NOT granted)`).Scan(&waits)
		return err == nil && waits
	}))
	read(`SELECT FROM rollout_device; SELECT FROM rollout FOR UPDATE`)
	var pg *pgconn.PgError
	if err := <-done; !errors.As(err, &pg) || pg.Code != "55P03" {
		t.Errorf("got %v, want lock_not_available", err)
	}
	read(`COMMIT`)
	if got, err := migrations.Apply(t.Context(), url); err != nil || got.From != 11 || got.To < 12 {
		t.Errorf("got %+v, %v", got, err)
	}
}

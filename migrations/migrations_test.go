package migrations_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"groundswell/internal/devstack/devtest"
	"groundswell/migrations"
)

var update = flag.Bool("update", false, "write schema.sql")

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestSchemaDumpIsThatOfAMigratedDatabase(t *testing.T) {
	url := devtest.Database(t)
	if _, err := migrations.Apply(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump") // the pattern is well formed
	if len(found) == 0 {
		t.Fatal("pg_dump is not installed")
	}
	// Private: a socket that only the tests' own user reaches, or root.
	out, err := exec.CommandContext(t.Context(), found[len(found)-1], "--schema-only", "--no-owner", "--no-privileges", "--exclude-table=public.schema_version", url).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := normalised(string(out))
	if *update {
		if err := os.WriteFile("schema.sql", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run this test with -update, and review the change (-schema.sql +migrated)\n%s", diff)
	}
}

// normalised leaves out what differs between versions of pg_dump: comments,
// settings of the session, blank lines.
func normalised(dump string) string {
	var b strings.Builder
	b.WriteString("-- What the migrations make. Written by the test in this folder (-update); do not edit.\n")
	for _, line := range strings.Split(dump, "\n") {
		switch {
		case line == "", strings.HasPrefix(line, "--"), strings.HasPrefix(line, "SET "), strings.HasPrefix(line, "SELECT pg_catalog.set_config"), strings.HasPrefix(line, `\`):
			continue
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

func TestReplicasThatStartTogetherMigrateOnce(t *testing.T) {
	url := devtest.Database(t)
	results := make([]migrations.Result, 5)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			var err error
			if results[i], err = migrations.Apply(t.Context(), url); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first := 0
	for _, r := range results {
		if r.From == 0 {
			first++
		}
		if r.To < 1 || r.Newer {
			t.Errorf("got %+v", r)
		}
	}
	if first != 1 {
		t.Errorf("%d replicas migrated", first)
	}
}

func TestDatabaseOfANewerReleaseIsLeftAlone(t *testing.T) {
	url := devtest.Database(t)
	if _, err := migrations.Apply(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `UPDATE schema_version SET version = 900`); err != nil {
		t.Fatal(err)
	}
	got, err := migrations.Apply(t.Context(), url)
	if err != nil || !got.Newer || got.To != 900 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	url := devtest.Database(t)
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, int64(0x67726f756e64)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := migrations.Apply(ctx, url)
		done <- err
	}()
	devtest.Eventually(t, 0, "it to ask for the lock", devtest.True(func() bool {
		var asking bool
		err := connect(t, url).QueryRow(t.Context(), `
			SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid())`).Scan(&asking)
		return err == nil && asking
	}))
	cancel()
	if err := <-done; err == nil {
		t.Error("it migrated without the lock")
	}
}

package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

var (
	alice = storetest.Alice
	waves = storetest.Waves
)

func must[V any](v V, err error) V { return storetest.Must(v, err) }

// world is a store on a fresh database, with an outside connection.
type world struct {
	*storetest.World
	t  *testing.T
	db *pgx.Conn
}

// newWorld lets the test run beside others: each has its own database.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return anotherWorld(t)
}

func anotherWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: storetest.New(t, nil), t: t}
	db, err := pgx.Connect(t.Context(), w.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	w.db = db
	return w
}

func (w *world) exec(query string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), query, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) number(query string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.db.QueryRow(w.t.Context(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// awaitBlocked waits until n others wait for locks. It asks on another
// connection: within a transaction, pg_stat_activity is a snapshot.
func (w *world) awaitBlocked(n int) {
	w.t.Helper()
	devtest.Eventually(w.t, 0, fmt.Sprintf("%d to wait for locks", n), func() error {
		got := w.Exec(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
		if strings.TrimSpace(got) != strconv.Itoa(n) {
			return fmt.Errorf("%s wait", strings.TrimSpace(got))
		}
		return nil
	})
}

func (w *world) manifest(cohort string) topics.Manifest {
	w.t.Helper()
	signed, _, err := w.CohortManifest(w.t.Context(), cohort)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := topics.DecodeManifest(signed)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) assignment(device string) topics.Assignment {
	w.t.Helper()
	s, err := w.SignedOne(w.t.Context(), topics.KindAssignment, device)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := topics.DecodeAssignment(s.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func wantField(t *testing.T, err error, pointer string) {
	t.Helper()
	var field *fleet.FieldError
	if !errors.As(err, &field) || field.Pointer != pointer {
		t.Fatalf("got %v, want a refusal of %s", err, pointer)
	}
}

func TestStartedRolloutIsInTheManifestAndTheOutbox(t *testing.T) {
	w := newWorld(t)
	w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	if r.State != fleet.Running || r.Revision != 2 || r.Waves[0].State != fleet.WaveOpen {
		t.Fatalf("got %+v", r)
	}
	m := w.manifest("all")
	if len(m.Entries) != 1 || m.Entries[0].Rollout != r.ID || m.Entries[0].Revision != 2 || len(m.Entries[0].Waves) != 1 || m.Images == nil {
		t.Fatalf("got %+v", m)
	}
	rows := must(w.ClaimOutbox(t.Context(), store.DefaultRegion, []topics.Kind{topics.KindManifest}, 10, time.Minute))
	if len(rows) != 1 || rows[0].Version != m.Version || rows[0].Topic != "fleet/v1/cohorts/all/manifest" {
		t.Fatalf("got %+v", rows)
	}
	again := must(w.Rollout(t.Context(), r.ID))
	if again.Waves[0].Members != 1 || again.Waves[0].Counts["waiting"] != 1 || !strings.Contains(again.Waves[0].Gate, "0 of 1 outcomes") {
		t.Fatalf("got %+v", again.Waves[0])
	}
}

package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/internal/devstack/devtest"
	"groundswell/migrations"
	"groundswell/topics"
)

// plainSigner stands in for the director key: what it "signs" can be read back.
type plainSigner struct{}

func (plainSigner) SignManifest(m topics.Manifest, _ time.Time) ([]byte, error) {
	return json.Marshal(m)
}
func (plainSigner) SignAssignment(a topics.Assignment, _ time.Time) ([]byte, error) {
	return json.Marshal(a)
}
func (plainSigner) SignCommand(c topics.Command, _ time.Time) ([]byte, error) { return json.Marshal(c) }

var alice = fleet.Actor{Name: "alice", RequestID: "req-1"}

// world is a migrated database with a store, and an outside connection.
type world struct {
	*store.Store
	t   *testing.T
	url string
	db  *pgx.Conn
	seq atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, url: devtest.Database(t)}
	if _, err := migrations.Apply(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	w.Store = w.open()
	db, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	w.db = db
	return w
}

func (w *world) open() *store.Store {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Options{URL: w.url, TrustDomain: "fleet.test", Signer: plainSigner{}, MaxConns: 8})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("unexpected error: %v", err))
	}
	return v
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

// release publishes a release of the component system, for the given models
// (default: m1).
func (w *world) release(version string, models ...string) fleet.Release {
	w.t.Helper()
	if models == nil {
		models = []string{"m1"}
	}
	sha := fmt.Sprintf("%064x", w.seq.Add(1))
	if _, _, err := w.PutArtifact(w.t.Context(), alice, fleet.Artifact{SHA256: sha, Length: 100}); err != nil {
		w.t.Fatal(err)
	}
	r := fleet.Release{Component: "system", Name: "camera", Version: version, Path: "system/camera/" + version, Length: 100, SHA256: sha, Models: models}
	pin := &topics.SnapshotPin{Version: w.seq.Load(), Length: 10, SHA256: sha}
	created, err := w.PublishReleases(w.t.Context(), alice, store.Publication{Releases: []fleet.Release{r}, Pin: pin})
	if err != nil {
		w.t.Fatal(err)
	}
	return created[0]
}

// beat is a heartbeat of a device that runs version.
func (w *world) beat(device, model, version string, epoch, sequence int64) store.UplinkRecord {
	h := topics.Heartbeat{Schema: 1, Versions: map[string]string{"system": version}, BootID: "b1", Mode: topics.ModeConnected, Agent: "1.0.0",
		CheckInMillis: 12, Epoch: epoch, Sequence: sequence, Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second)}
	return w.uplink(topics.DeviceHeartbeat(device), model, must(topics.Encode(h)))
}

func (w *world) uplink(topic, model string, payload []byte) store.UplinkRecord {
	return store.UplinkRecord{Topic: topic, Payload: payload, Shard: 0, Sequence: w.seq.Add(1), Stored: time.Now(), Model: model, Hardware: "r1"}
}

// status is a report; version is what the device runs and target what it is
// to run.
func (w *world) status(device, rollout string, state topics.State, attempt int, sequence int64) store.UplinkRecord {
	s := topics.Status{Schema: 1, Rollout: rollout, Revision: 2, Cohort: "all", Component: "system", Release: "camera", Attempt: attempt, State: state,
		Reason: "because", From: "1.0.0", Running: "1.0.0", Target: "1.1.0", BootID: "b1", Epoch: 1, Sequence: sequence,
		Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second)}
	if state == topics.StateCommitted {
		s.Running, s.BootID, s.PreviousBootID = "1.1.0", "b2", "b1"
	}
	return w.uplink(topics.DeviceStatus(device), "m1", must(topics.Encode(s)))
}

func (w *world) apply(records ...store.UplinkRecord) []store.UplinkResult {
	w.t.Helper()
	results, err := w.ApplyUplink(w.t.Context(), records)
	if err != nil {
		w.t.Fatal(err)
	}
	return results
}

// devices registers n devices m1 that run 1.0.0, by their first heartbeat.
func (w *world) devices(n int) (ids []string) {
	w.t.Helper()
	var records []store.UplinkRecord
	for i := range n {
		ids = append(ids, fmt.Sprintf("cam-%05d", i))
		records = append(records, w.beat(ids[i], "m1", "1.0.0", 1, 1))
	}
	for len(records) > 0 {
		k := min(len(records), 500)
		w.apply(records[:k]...)
		records = records[k:]
	}
	return ids
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

// running makes the cohort "all" over model m1 and starts a rollout of 1.1.0.
func (w *world) running(policy fleet.PolicySpec) fleet.Rollout {
	w.t.Helper()
	ctx := w.t.Context()
	if _, err := w.Cohort(ctx, "all"); errors.Is(err, fleet.ErrNotFound) {
		must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	}
	if _, err := w.Release(ctx, "camera", "1.1.0"); errors.Is(err, fleet.ErrNotFound) {
		w.release("1.1.0")
	}
	r := must(w.CreateRollout(ctx, alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, PolicySpec: policy}))
	return must(w.StartRollout(ctx, alice, r.ID, r.Revision))
}

func waves(percents ...float64) (out []fleet.WaveSpec) {
	zero := fleet.Duration(0)
	for _, p := range percents {
		out = append(out, fleet.WaveSpec{Percent: p, Spread: &zero, Soak: &zero})
	}
	return out
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
	w.devices(3)
	r := w.running(fleet.PolicySpec{})
	if r.State != fleet.Running || r.Revision != 2 || r.Waves[0].State != fleet.WaveOpen {
		t.Fatalf("got %+v", r)
	}
	m := w.manifest("all")
	if len(m.Entries) != 1 || m.Entries[0].Rollout != r.ID || m.Entries[0].Revision != 2 || len(m.Entries[0].Waves) != 1 || m.Images == nil {
		t.Fatalf("got %+v", m)
	}
	rows := must(w.ClaimOutbox(t.Context(), []topics.Kind{topics.KindManifest}, 10, time.Minute))
	if len(rows) != 1 || rows[0].Version != m.Version || rows[0].Topic != "fleet/v1/cohorts/all/manifest" {
		t.Fatalf("got %+v", rows)
	}
	again := must(w.Rollout(t.Context(), r.ID))
	if again.Waves[0].Members != 1 || again.Waves[0].Counts["waiting"] != 1 || !strings.Contains(again.Waves[0].Gate, "0 of 1 outcomes") {
		t.Fatalf("got %+v", again.Waves[0])
	}
}

// Package storetest gives tests a store on a fresh database, and the words to
// fill it: devices that beat, a release, a rollout that runs, reports. Nothing
// in it is signed by a real key unless the caller brings one.
package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/internal/devstack/devtest"
	"groundswell/migrations"
	"groundswell/topics"
)

// TrustDomain of every world.
const TrustDomain = "fleet.test"

// Alice makes the changes.
var Alice = fleet.Actor{Name: "alice", RequestID: "req-1"}

// PlainSigner stands in for the director key: what it "signs" is the body.
type PlainSigner struct{}

// SignManifest returns the body.
func (PlainSigner) SignManifest(m topics.Manifest, _ time.Time) ([]byte, error) {
	return json.Marshal(m)
}

// SignAssignment returns the body.
func (PlainSigner) SignAssignment(a topics.Assignment, _ time.Time) ([]byte, error) {
	return json.Marshal(a)
}

// SignCommand returns the body.
func (PlainSigner) SignCommand(c topics.Command, _ time.Time) ([]byte, error) { return json.Marshal(c) }

// World is a store on a migrated database of its own.
type World struct {
	*store.Store
	T      *testing.T
	URL    string
	Name   string // of the database in devtest.Postgres
	Signer store.Signer
	seq    atomic.Int64
}

// New makes a world. signer nil is PlainSigner.
func New(t *testing.T, signer store.Signer) *World {
	t.Helper()
	if signer == nil {
		signer = PlainSigner{}
	}
	w := &World{T: t, Signer: signer}
	w.URL, w.Name = devtest.NamedDatabase(t)
	if _, err := migrations.Apply(t.Context(), w.URL); err != nil {
		t.Fatal(err)
	}
	w.Store = w.Open()
	return w
}

// Open opens the database once more, as another replica does, that publishes to the
// given regions; none: the default one.
func (w *World) Open(regions ...string) *store.Store {
	w.T.Helper()
	return w.OpenWith(store.Options{Regions: regions})
}

// OpenWith is Open with some options; those that a world has are its own.
func (w *World) OpenWith(o store.Options) *store.Store {
	w.T.Helper()
	o.URL, o.TrustDomain, o.Signer, o.MaxConns = w.URL, TrustDomain, w.Signer, 8
	s, err := store.Open(w.T.Context(), o)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(s.Close)
	return s
}

// Exec does what no method of a store does, such as turning back the clock of
// a row, and returns what psql prints.
func (w *World) Exec(sql string) string {
	w.T.Helper()
	out, err := devtest.Postgres(w.T).Query(w.T.Context(), w.Name, sql)
	if err != nil {
		w.T.Fatal(err)
	}
	return out
}

// Must is for what cannot fail.
func Must[V any](v V, err error) V {
	if err != nil {
		panic(fmt.Sprintf("unexpected error: %v", err))
	}
	return v
}

// AddRelease publishes a release of component system, for the given models
// (default: m1).
func (w *World) AddRelease(version string, models ...string) fleet.Release {
	w.T.Helper()
	return w.AddReleaseFor(version, "", models...)
}

// AddReleaseFor is AddRelease of one that takes only what meets a constraint.
func (w *World) AddReleaseFor(version, takes string, models ...string) fleet.Release {
	w.T.Helper()
	if models == nil {
		models = []string{"m1"}
	}
	r := w.newRelease(version, models)
	if takes != "" {
		r.Requires = []fleet.Requirement{{Component: "system", Versions: takes}}
	}
	return w.publish(r)
}

// AddIndexed is AddRelease of one with a block index, for model m1.
func (w *World) AddIndexed(version string) fleet.Release {
	w.T.Helper()
	r := w.newRelease(version, []string{"m1"})
	r.Index = &topics.Document{Length: 10, SHA256: w.artifact(10)}
	return w.publish(r)
}

// artifact makes up one of that length, of which only the name is known.
func (w *World) artifact(length int64) string {
	sha := fmt.Sprintf("%064x", w.seq.Add(1))
	Must1(w.PutArtifact(w.T.Context(), Alice, fleet.Artifact{SHA256: sha, Length: length}))
	return sha
}

func (w *World) newRelease(version string, models []string) fleet.Release {
	return fleet.Release{Component: "system", Name: "camera", Version: version, Path: "system/camera/" + version, Length: 100, SHA256: w.artifact(100), Models: models}
}

func (w *World) publish(r fleet.Release) fleet.Release {
	w.T.Helper()
	pin := &topics.SnapshotPin{Version: w.seq.Add(1), Length: 10, SHA256: r.SHA256}
	return Must(w.PublishReleases(w.T.Context(), Alice, store.Publication{Releases: []fleet.Release{r}, Pin: pin}))[0]
}

// Must1 is Must for three results.
func Must1[A, B any](a A, _ B, err error) A { return Must(a, err) }

// Uplink is a record of a device, of hardware r1.
func (w *World) Uplink(topic, model string, payload []byte) store.UplinkRecord {
	return store.UplinkRecord{Topic: topic, Payload: payload, Shard: 0, Sequence: w.seq.Add(1), Stored: time.Now(), Model: model, Hardware: "r1"}
}

// Beat is a heartbeat of a device that runs version.
func (w *World) Beat(device, model, version string, epoch, sequence int64) store.UplinkRecord {
	h := topics.Heartbeat{Schema: 1, Versions: map[string]string{"system": version}, BootID: "b1", Mode: topics.ModeConnected, Agent: "1.0.0",
		CheckInMillis: 12, Epoch: epoch, Sequence: sequence, Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second)}
	return w.Uplink(topics.DeviceHeartbeat(device), model, Must(topics.Encode(h)))
}

// Status is a report of a device of model m1, on its way from 1.0.0 to 1.1.0.
func (w *World) Status(device, rollout string, state topics.State, attempt int, sequence int64) store.UplinkRecord {
	s := topics.Status{Schema: 1, Rollout: rollout, Revision: 2, Cohort: "all", Component: "system", Release: "camera", Attempt: attempt, State: state,
		Reason: "because", From: "1.0.0", Running: "1.0.0", Target: "1.1.0", BootID: "b1", Epoch: 1, Sequence: sequence,
		Clock: topics.ClockTrusted, At: time.Now().UTC().Truncate(time.Second)}
	if state == topics.StateCommitted {
		s.Running, s.BootID, s.PreviousBootID = "1.1.0", "b2", "b1"
	}
	return w.Uplink(topics.DeviceStatus(device), "m1", Must(topics.Encode(s)))
}

// Apply stores records.
func (w *World) Apply(records ...store.UplinkRecord) []store.UplinkResult {
	w.T.Helper()
	results, err := w.ApplyUplink(w.T.Context(), records)
	if err != nil {
		w.T.Fatal(err)
	}
	return results
}

// Seed registers cam-00000 to n-1 of model m1, running 1.0.0, by their
// first heartbeat.
func (w *World) Seed(n int) (ids []string) {
	w.T.Helper()
	var records []store.UplinkRecord
	for i := range n {
		ids = append(ids, fmt.Sprintf("cam-%05d", i))
		records = append(records, w.Beat(ids[i], "m1", "1.0.0", 1, 1))
	}
	for len(records) > 0 {
		k := min(len(records), 500)
		w.Apply(records[:k]...)
		records = records[k:]
	}
	return ids
}

// Running makes the cohort "all" over model m1 and release 1.1.0, unless they
// are there, and starts a rollout of it.
func (w *World) Running(policy fleet.PolicySpec) fleet.Rollout {
	w.T.Helper()
	ctx := w.T.Context()
	if _, err := w.Cohort(ctx, "all"); errors.Is(err, fleet.ErrNotFound) {
		Must(w.CreateCohort(ctx, Alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	}
	if _, err := w.Release(ctx, "camera", "1.1.0"); errors.Is(err, fleet.ErrNotFound) {
		w.AddRelease("1.1.0")
	}
	r := Must(w.CreateRollout(ctx, Alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, PolicySpec: policy}))
	return Must(w.StartRollout(ctx, Alice, r.ID, r.Revision, ""))
}

// Waves are waves without spread and soak time.
func Waves(percents ...float64) (out []fleet.WaveSpec) {
	zero := fleet.Duration(0)
	for _, p := range percents {
		out = append(out, fleet.WaveSpec{Percent: p, Spread: &zero, Soak: &zero})
	}
	return out
}

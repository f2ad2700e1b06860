package trust_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"groundswell/certs/trust"
	"groundswell/topics"
)

const (
	domain = "fleet.example.org"
	cohort = "lobby"
	device = "cam-1"
)

var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func must[V any](t testing.TB) func(v V, err error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// keys counts the keys that were made: each is another, and a fuzzer's worker
// makes the same ones as its coordinator.
var keys atomic.Uint64

func newKey(t testing.TB) *trust.Key {
	t.Helper()
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(nil, keys.Add(1)))
	return must[*trust.Key](t)(trust.KeyFromSeed(seed))
}

func role(threshold int, keys ...*trust.Key) trust.RoleKeys {
	r := trust.RoleKeys{Threshold: threshold}
	for _, k := range keys {
		r.Keys = append(r.Keys, k.Public())
	}
	return r
}

// world holds all keys and the current metadata of a small fleet: two of three
// root keys and two of three release keys must sign.
type world struct {
	t testing.TB

	rootKeys, releaseKeys             []*trust.Key
	snapshotKey, timestampKey         *trust.Key
	directorRootKeys, directorKeys    []*trust.Key
	imageRoot, directorRoot           []byte
	targets, snapshot, timestampBytes []byte
	pin                               topics.SnapshotPin
	artifact                          []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, snapshotKey: newKey(t), timestampKey: newKey(t), artifact: []byte("firmware 1.1.0")}
	for range 3 {
		w.rootKeys = append(w.rootKeys, newKey(t))
		w.releaseKeys = append(w.releaseKeys, newKey(t))
		w.directorRootKeys = append(w.directorRootKeys, newKey(t))
	}
	w.directorKeys = []*trust.Key{newKey(t), newKey(t)}
	w.imageRoot = must[[]byte](t)(trust.InitRoot(w.imageSpec(), w.rootKeys[:2]...))
	w.directorRoot = must[[]byte](t)(trust.InitRoot(w.directorSpec(), w.directorRootKeys[:2]...))
	w.targets = w.signTargets(nil, w.image("1.1.0", ""))
	w.publish(1)
	return w
}

func (w *world) imageSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.Add(365 * day),
		Root: role(2, w.rootKeys...), Targets: role(2, w.releaseKeys...),
		Snapshot: role(1, w.snapshotKey), Timestamp: role(1, w.timestampKey),
	}
}

func (w *world) directorSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Director, Expires: now.Add(365 * day),
		Root: role(2, w.directorRootKeys...), Targets: role(1, w.directorKeys...),
	}
}

// image is a release of the artifact in some version.
func (w *world) image(version, floor string) trust.ReleaseImage {
	sum := sha256.Sum256(w.artifact)
	r := trust.Release{
		Schema: 1, Component: topics.DefaultComponent, Name: "camera", Version: version,
		Models: []string{"cam-x", "cam-y"}, Hardware: []string{"rev-b"}, SecurityFloor: floor,
	}
	return trust.ReleaseImage{Path: trust.ReleasePath(r), Length: int64(len(w.artifact)), SHA256: hex.EncodeToString(sum[:]), Release: r}
}

func (w *world) signTargets(previous []byte, add ...trust.ReleaseImage) []byte {
	w.t.Helper()
	return must[[]byte](w.t)(trust.SignTargets(trust.TargetsSpec{
		Root: w.imageRoot, Previous: previous, Add: add, Expires: now.Add(90 * day), Now: now,
	}, w.releaseKeys[:2]...))
}

// publish makes snapshot and timestamp of a version for the current targets.
func (w *world) publish(version int64) {
	w.t.Helper()
	var err error
	w.snapshot, w.pin, err = trust.MakeSnapshot(w.targets, version, now.Add(30*day), w.snapshotKey)
	if err != nil {
		w.t.Fatal(err)
	}
	w.timestampBytes = must[[]byte](w.t)(trust.MakeTimestamp(w.snapshot, version, now.Add(7*day), w.timestampKey))
}

func (w *world) entry(version string) topics.Entry {
	image := w.image(version, "")
	return topics.Entry{
		Rollout: "r-" + hex.EncodeToString([]byte(version)), Revision: 1, Kind: topics.EntryUpdate, State: topics.EntryRunning,
		Sequence: 1, Component: image.Release.Component, Release: image.Release.Name, Version: version,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256},
		Models: image.Release.Models, Hardware: image.Release.Hardware,
	}
}

func (w *world) manifest(version int64) topics.Manifest {
	return topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: cohort,
		Version: version, Issued: now, Images: &w.pin, Entries: []topics.Entry{w.entry("1.1.0")},
	}
}

func (w *world) sign(m topics.Manifest) []byte {
	w.t.Helper()
	return must[[]byte](w.t)(trust.SignManifest(m, now.Add(14*day), w.directorKeys[0]))
}

func (w *world) assignment(version int64) topics.Assignment {
	return topics.Assignment{
		Schema: topics.Schema, Kind: string(topics.KindAssignment), TrustDomain: domain, Device: device,
		Version: version, Issued: now, Cohorts: []string{cohort},
	}
}

func (w *world) command(version int64) topics.Command {
	return topics.Command{
		Schema: topics.Schema, Kind: string(topics.KindCommand), TrustDomain: domain, Device: device,
		Version: version, Issued: now, ID: "c-1", Action: topics.CommandReport,
	}
}

func (w *world) state() trust.State {
	w.t.Helper()
	return must[trust.State](w.t)(trust.NewState(domain, w.imageRoot, w.directorRoot))
}

// synced is a State that has accepted the manifest, snapshot and targets.
func (w *world) synced() (trust.State, trust.Images) {
	w.t.Helper()
	s, m, err := w.state().Manifest(w.sign(w.manifest(10)), cohort, now)
	if err != nil {
		w.t.Fatal(err)
	}
	if s, _, err = s.Snapshot(w.snapshot, *m.Images, now); err != nil {
		w.t.Fatal(err)
	}
	s, images, err := s.Targets(w.targets, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return s, images
}

func sameState(t testing.TB, got, want trust.State) {
	t.Helper()
	a, b := must[[]byte](t)(json.Marshal(got)), must[[]byte](t)(json.Marshal(want))
	if !bytes.Equal(a, b) {
		t.Errorf("the state moved: %s", cmp.Diff(string(b), string(a)))
	}
}

func TestDeviceAcceptsWhatBothRepositoriesAgreeOn(t *testing.T) {
	w := newWorld(t)
	s := w.state()
	if !s.NeedsSnapshot(w.pin) {
		t.Error("a new device needs no snapshot")
	}
	s, a, err := s.Assignment(must[[]byte](t)(trust.SignAssignment(w.assignment(3), now.Add(14*day), w.directorKeys[1])), device, now)
	if err != nil || len(a.Cohorts) != 1 || a.Cohorts[0] != cohort {
		t.Fatalf("assignment: %+v, %v", a, err)
	}
	want := w.manifest(10)
	s, m, err := s.Manifest(w.sign(want), cohort, now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("the manifest changed on the way: %s", diff)
	}
	s, pin, err := s.Snapshot(w.snapshot, *m.Images, now)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(w.targets)) != pin.Length {
		t.Errorf("got length %d, want %d", pin.Length, len(w.targets))
	}
	if _, err := s.Images(now); !errors.Is(err, trust.ErrPin) {
		t.Errorf("got %v before the targets came, want %v", err, trust.ErrPin)
	}
	s, images, err := s.Targets(w.targets, now)
	if err != nil {
		t.Fatal(err)
	}
	if s.NeedsSnapshot(w.pin) {
		t.Error("the snapshot is still needed")
	}
	e := m.Entries[0]
	if err := images.Eligible(e, trust.Facts{Model: "cam-x", Hardware: "rev-b"}); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(trust.NewReader(bytes.NewReader(w.artifact), e.Target.Length, e.Target.SHA256)); err != nil {
		t.Error(err)
	}
	if !s.Floor().Equal(now) {
		t.Errorf("got floor %s, want %s", s.Floor(), now)
	}

	// After a restart it knows the same.
	again := must[trust.State](t)(trust.ParseState(must[[]byte](t)(json.Marshal(s))))
	sameState(t, again, s)
	if images, err := again.Images(now); err != nil || len(images.All()) != 1 {
		t.Errorf("got %d releases, %v", len(images.All()), err)
	}
}

package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/fetch"
	"groundswell/certs/trust"
	"groundswell/topics"
)

const domain = "fleet.test"

var now = time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC)

func must[V any](t testing.TB) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world has keys, and is a source that may be empty or lie.
type world struct {
	t                                            *testing.T
	root, release, snapshot, timestamp, director *trust.Key
	imageRoot, directorRoot                      []byte
	files                                        map[string][]byte
	failures                                     map[string]error
	asked                                        []string
	pin                                          topics.SnapshotPin
	version                                      int64
	dir                                          string
	machine                                      time.Time
	clock                                        *clock.Clock
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, files: map[string][]byte{}, failures: map[string]error{}, dir: t.TempDir(), machine: now}
	for _, k := range []**trust.Key{&w.root, &w.release, &w.snapshot, &w.timestamp, &w.director} {
		*k = must[*trust.Key](t)(trust.GenerateKey())
	}
	w.imageRoot = must[[]byte](t)(trust.InitRoot(trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.AddDate(1, 0, 0),
		Root: keys(w.root), Targets: keys(w.release), Snapshot: keys(w.snapshot), Timestamp: keys(w.timestamp),
	}, w.root))
	w.directorRoot = must[[]byte](t)(trust.InitRoot(w.spec(w.director), w.root))
	release := trust.Release{Schema: 1, Component: "system", Name: "camera", Version: "1.1.0", Models: []string{"cam-a"}}
	targets := must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{
		Root: w.imageRoot, Now: now, Expires: now.AddDate(0, 1, 0),
		Add: []trust.ReleaseImage{{Path: trust.ReleasePath(release), Length: 1, SHA256: fmt.Sprintf("%064d", 1), Release: release}},
	}, w.release))
	snapshot, pin, err := trust.MakeSnapshot(targets, 1, now.AddDate(0, 1, 0), w.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	w.pin = pin
	w.files["snapshot 1"], w.files["targets 1"] = snapshot, targets
	return w
}

func keys(list ...*trust.Key) trust.RoleKeys {
	r := trust.RoleKeys{Threshold: 1}
	for _, k := range list {
		r.Keys = append(r.Keys, k.Public())
	}
	return r
}

func (w *world) spec(directors ...*trust.Key) trust.RootSpec {
	return trust.RootSpec{TrustDomain: domain, Repository: trust.Director, Expires: now.AddDate(1, 0, 0), Root: keys(w.root), Targets: keys(directors...)}
}

func (w *world) get(name string, accept func([]byte) error) error {
	w.asked = append(w.asked, name)
	if err := w.failures[name]; err != nil {
		return err
	}
	if data, ok := w.files[name]; ok {
		return accept(data)
	}
	return fetch.ErrNotFound
}

func (w *world) Root(_ context.Context, repo trust.Repository, n int64, accept func([]byte) error) error {
	return w.get(fmt.Sprintf("%s root %d", repo, n), accept)
}
func (w *world) Snapshot(_ context.Context, pin topics.SnapshotPin, accept func([]byte) error) error {
	return w.get(fmt.Sprintf("snapshot %d", pin.Version), accept)
}
func (w *world) Targets(_ context.Context, pin trust.TargetsPin, accept func([]byte) error) error {
	return w.get(fmt.Sprintf("targets %d", pin.Version), accept)
}

func (w *world) open() *Verifier {
	w.t.Helper()
	built := now.AddDate(0, -1, 0)
	w.clock = clock.New(built, func() time.Time { return w.machine })
	return must[*Verifier](w.t)(Open(w.dir, domain, "cam-1", Roots{w.imageRoot, w.directorRoot}, w.clock, built, w, slog.New(slog.DiscardHandler)))
}

func (w *world) manifest(key *trust.Key, issued time.Time) []byte {
	w.t.Helper()
	w.version++
	return must[[]byte](w.t)(trust.SignManifest(topics.Manifest{
		Schema: 1, Kind: "manifest", TrustDomain: domain, Cohort: "lobby", Version: w.version, Issued: issued, Entries: []topics.Entry{},
	}, issued.AddDate(0, 0, 14), key))
}

func (w *world) command(id string) []byte {
	w.t.Helper()
	w.version++
	return must[[]byte](w.t)(trust.SignCommand(topics.Command{
		Schema: 1, Kind: "command", TrustDomain: domain, Device: "cam-1", Version: w.version, Issued: now, ID: id, Action: topics.CommandReport,
	}, now.Add(time.Hour), w.director))
}

func TestNoWayBackOverARestart(t *testing.T) {
	w := newWorld(t)
	older, newer := w.manifest(w.director, now), w.manifest(w.director, now)
	if _, err := w.open().Manifest(newer, "lobby"); err != nil {
		t.Fatal(err)
	}
	v := w.open()
	if _, err := v.Manifest(older, "lobby"); !errors.Is(err, trust.ErrVersionRollback) {
		t.Fatalf("older one after a restart: %v", err)
	}
	if _, err := v.Manifest(newer, "lobby"); err != nil {
		t.Fatalf("same one again: %v", err)
	}
}

func TestVerifiedTimeIsTheFloorOfTheClock(t *testing.T) {
	w := newWorld(t)
	w.machine = time.Unix(0, 0)
	if _, err := w.open().Manifest(w.manifest(w.director, now), "lobby"); err != nil {
		t.Fatal(err)
	}
	w.open()
	if got := w.clock.Now(); got.Before(now) {
		t.Fatalf("after a restart it is %v", got)
	}
}

func TestDamagedTrustBeginsAnewWithTheProvisionedRoots(t *testing.T) {
	w := newWorld(t)
	if _, err := w.open().Manifest(w.manifest(w.director, now), "lobby"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "trust"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := w.open()
	if _, err := v.Manifest(w.manifest(w.director, now), "lobby"); err != nil {
		t.Fatal(err)
	}
	stranger := must[*trust.Key](t)(trust.GenerateKey())
	if _, err := v.Manifest(w.manifest(stranger, now), "lobby"); !errors.Is(err, trust.ErrSignature) {
		t.Fatalf("a stranger's: %v", err)
	}
}

func TestStateThatCannotBeWrittenIsNotUsed(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	if err := os.MkdirAll(filepath.Join(w.dir, "trust.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	raw := w.manifest(w.director, now)
	if _, err := v.Manifest(raw, "lobby"); err == nil {
		t.Fatal("accepted without writing it down")
	}
	if v.state.Floor().Equal(now) {
		t.Fatal("the state moved")
	}
}

func TestCommandIsObeyedOnceAndAgainOnlyIfItFailed(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	raw := w.command("c-1")
	n := 0
	obey := func(fail error) func(topics.Command) error {
		return func(topics.Command) error { n++; return fail }
	}
	boom := errors.New("disk full")
	if err := v.Command(raw, obey(boom)); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	for range 3 {
		if err := v.Command(raw, obey(nil)); err != nil {
			t.Fatal(err)
		}
		v = w.open()
	}
	if n != 2 {
		t.Fatalf("obeyed %d times", n)
	}
}

func TestRootsAreWalkedOneByOne(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	second, third := must[*trust.Key](t)(trust.GenerateKey()), must[*trust.Key](t)(trust.GenerateKey())
	two := must[[]byte](t)(trust.RotateRoot(w.directorRoot, w.spec(w.director, second), w.root))
	three := must[[]byte](t)(trust.RotateRoot(two, w.spec(third), w.root))
	w.files["director root 2"], w.files["director root 3"] = two, three

	future := now.AddDate(0, 6, 0) // a thief's time, within the root's own
	if _, err := v.Manifest(w.manifest(w.director, future), "lobby"); err != nil {
		t.Fatal(err)
	}
	raw := w.manifest(third, now)
	if _, err := v.Manifest(raw, "lobby"); !Curable(err) {
		t.Fatalf("key not known yet: %v", err)
	}
	if err := v.WalkRoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-v.RootsChanged():
	default:
		t.Error("nobody is told")
	}
	// The withdrawn key's versions and times are forgotten.
	w.version = 0
	if _, err := v.Manifest(w.manifest(third, now), "lobby"); err != nil {
		t.Fatalf("after the walk: %v", err)
	}
	if got := w.clock.Now(); got.After(now.Add(time.Hour)) {
		t.Errorf("the thief's time is still the floor: %v", got)
	}
	if _, err := v.Manifest(w.manifest(w.director, now), "lobby"); !errors.Is(err, trust.ErrSignature) {
		t.Errorf("the withdrawn key: %v", err)
	}
}

func TestRootOfASourceThatLiesIsRefused(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	w.files["director root 2"] = w.directorRoot
	if err := v.WalkRoots(t.Context()); !errors.Is(err, trust.ErrVersionGap) || len(w.asked) != 1 {
		t.Fatalf("the old root under a new number: %v, after %d questions", err, len(w.asked))
	}
	w.files["director root 2"] = []byte("rubbish")
	if err := v.WalkRoots(t.Context()); !errors.Is(err, trust.ErrMalformed) {
		t.Fatalf("rubbish: %v", err)
	}
}

func TestListOfReleasesIsFetchedOnceAndHeld(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	good := w.files["targets 1"]
	w.files["targets 1"] = append([]byte(" "), good...)
	if _, err := v.Images(t.Context(), w.pin); !errors.Is(err, trust.ErrPin) {
		t.Fatalf("other bytes: %v", err)
	}
	if _, err := v.Held(); err == nil {
		t.Fatal("something is held")
	}
	w.files["targets 1"] = good
	images, err := v.Images(t.Context(), w.pin)
	if err != nil || len(images.All()) != 1 {
		t.Fatalf("%v, %v", images.All(), err)
	}
	w.asked = nil
	v = w.open()
	if _, err := v.Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	if want := []string{"director root 2", "image root 2"}; fmt.Sprint(w.asked) != fmt.Sprint(want) {
		t.Errorf("after a restart it asked for %v", w.asked)
	}
	if _, err := v.Held(); err != nil {
		t.Error(err)
	}
}

// One of two sources does not answer, or lies: the list of releases is had all
// the same, but the search for a root has not come to an end.
func TestSilentSourceDoesNotHoldUpTheListOfReleases(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	w.failures["director root 2"] = fmt.Errorf("%w: no answer", fetch.ErrUnsure)
	if err := v.WalkRoots(t.Context()); !errors.Is(err, fetch.ErrUnsure) {
		t.Errorf("the search: %v", err)
	}
	if _, err := v.Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	if want := []string{"director root 2", "image root 2"}; fmt.Sprint(w.asked[:2]) != fmt.Sprint(want) {
		t.Errorf("it asked for %v", w.asked)
	}
	w.failures["director root 2"] = errors.New("no answer of anybody")
	if _, err := v.Images(t.Context(), w.pin); err == nil {
		t.Fatal("nobody said that there is no newer root")
	}
}

// TestListOfReleasesComesFromPeers as it would from a source, which is not asked: what they
// give is verified, and what is held is not asked for.
func TestListOfReleasesComesFromPeers(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	has := w.open() // a peer
	if _, err := has.Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	w.dir = t.TempDir()
	v := w.open()
	w.asked = nil
	asked, given := 0, has.Document
	peers := func(_ context.Context, d topics.Document) ([]byte, error) {
		asked++
		if raw := given(d.SHA256); raw != nil {
			return raw, nil
		}
		return nil, fetch.ErrNotFound
	}
	nothing := func(string) []byte { return nil }
	for name, c := range map[string]struct {
		give func(string) []byte
		want error
	}{
		"nothing":         {nothing, fetch.ErrNotFound},
		"something else":  {func(string) []byte { return w.files["targets 1"] }, trust.ErrMalformed},
		"another one":     {func(string) []byte { return other.files["snapshot 1"] }, trust.ErrPin},
		"no list with it": {func(sha256 string) []byte { return map[string][]byte{w.pin.SHA256: has.Document(sha256)}[sha256] }, fetch.ErrNotFound},
	} {
		given = c.give
		if _, err := v.FromPeers(t.Context(), w.pin, peers); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Held(); err == nil {
			t.Errorf("%s: a list is held", name)
		}
	}
	given, asked = has.Document, 0
	for range 2 {
		images, err := v.FromPeers(t.Context(), w.pin, peers)
		if _, ok := images.Lookup("system/camera/1.1.0"); err != nil || !ok {
			t.Errorf("it is listed: %v, %v", ok, err)
		}
	}
	if asked != 2 || len(w.asked) > 0 {
		t.Errorf("peers were asked for %d documents, sources for %q", asked, w.asked)
	}
	// It gives them in its turn, also after a restart; nothing else.
	v = w.open()
	for name, want := range map[string][]byte{"snapshot 1": w.files["snapshot 1"], "targets 1": w.files["targets 1"], "root": nil} {
		raw := w.files[name]
		if raw == nil {
			raw = w.imageRoot
		}
		sum := sha256.Sum256(raw)
		if got := v.Document(hex.EncodeToString(sum[:])); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

// TestASnapshotWithoutItsListMovesNothing: from whom it comes, peers or a source, the list
// that is held stays, and another cohort's manifest still finds it.
func TestASnapshotWithoutItsListMovesNothing(t *testing.T) {
	w := newWorld(t)
	if _, err := w.open().Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	targets := must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{Root: w.imageRoot, Previous: w.files["targets 1"], Now: now, Expires: now.AddDate(0, 2, 0)}, w.release))
	snapshot, pin, err := trust.MakeSnapshot(targets, 2, now.AddDate(0, 1, 0), w.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string][]byte{pin.SHA256: snapshot}
	peers := func(_ context.Context, d topics.Document) ([]byte, error) {
		if raw := given[d.SHA256]; raw != nil {
			return raw, nil
		}
		return nil, fetch.ErrNotFound
	}
	v := w.open()
	for name, images := range map[string]func() (trust.Images, error){
		"peers":    func() (trust.Images, error) { return v.FromPeers(t.Context(), pin, peers) },
		"a source": func() (trust.Images, error) { w.files["snapshot 2"] = snapshot; return v.Images(t.Context(), pin) },
	} {
		if _, err := images(); !errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		for range 2 {
			if _, err := v.Held(); err != nil {
				t.Errorf("%s: held: %v", name, err)
			}
			if _, err := v.Images(t.Context(), w.pin); err != nil {
				t.Errorf("%s: of another cohort: %v", name, err)
			}
			if v.Document(pin.SHA256) != nil || v.Document(w.pin.SHA256) == nil {
				t.Errorf("%s: it gives others the snapshot alone", name)
			}
			v = w.open()
		}
	}
	sum := sha256.Sum256(targets)
	given[hex.EncodeToString(sum[:])] = targets
	if v.Document(pin.SHA256) != nil {
		t.Error("it has the snapshot")
	}
	if _, err := v.FromPeers(t.Context(), pin, peers); err != nil || v.Document(pin.SHA256) == nil {
		t.Errorf("both: %v", err)
	}
}

// TestAListThatCameMeanwhileIsNoRefusal: a newer one was brought for another cohort while the
// older one was on its way.
func TestAListThatCameMeanwhileIsNoRefusal(t *testing.T) {
	w := newWorld(t)
	targets := must[[]byte](t)(trust.SignTargets(trust.TargetsSpec{Root: w.imageRoot, Previous: w.files["targets 1"], Now: now, Expires: now.AddDate(0, 2, 0)}, w.release))
	snapshot, newer, err := trust.MakeSnapshot(targets, 2, now.AddDate(0, 1, 0), w.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(targets)
	given := map[string][]byte{newer.SHA256: snapshot, hex.EncodeToString(sum[:]): targets, w.pin.SHA256: w.files["snapshot 1"]}
	v := w.open()
	peers := func(ctx context.Context, d topics.Document) ([]byte, error) {
		if raw := given[d.SHA256]; raw != nil {
			return raw, nil
		}
		if _, err := v.FromPeers(ctx, newer, func(_ context.Context, d topics.Document) ([]byte, error) { return given[d.SHA256], nil }); err != nil {
			t.Error(err)
		}
		return w.files["targets 1"], nil
	}
	if _, err := v.FromPeers(t.Context(), w.pin, peers); err != nil {
		t.Error(err)
	}
}

// TestWhatOthersAskForIsNotHashedEachTime: a digest is made of memory that is allocated, so
// what allocates nothing makes none.
func TestWhatOthersAskForIsNotHashedEachTime(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	if _, err := v.Images(t.Context(), w.pin); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{fmt.Sprintf("%064d", 1), w.pin.SHA256} {
		if n := testing.AllocsPerRun(100, func() { v.Document(digest) }); n > 0 {
			t.Errorf("%s: %v allocations", digest, n)
		}
	}
}

func TestActedUponUntilItOrItsRootExpires(t *testing.T) {
	w := newWorld(t)
	v := w.open()
	raw := w.manifest(w.director, now)
	if _, err := v.Manifest(raw, "lobby"); err != nil {
		t.Fatal(err)
	}
	if until, err := v.Until(raw); err != nil || !until.Equal(now.AddDate(0, 0, 14)) {
		t.Errorf("%v, %v", until, err)
	}
	// Whoever carries it adds what no signature covers.
	forged := append([]byte(`{"Signed":{"expires":"2099-01-01T00:00:00Z"},`), raw[1:len(raw)-1]...)
	forged = append(forged, `,"SIGNED":{"expires":"2099-01-01T00:00:00Z"}}`...)
	if until, err := v.Until(forged); err != nil || !until.Equal(now.AddDate(0, 0, 14)) {
		t.Errorf("forged: %v, %v", until, err)
	}
	long := w.manifest(w.director, now.AddDate(1, 0, -1))
	if _, err := v.Manifest(long, "lobby"); err != nil {
		t.Fatal(err)
	}
	if until, err := v.Until(long); err != nil || !until.Equal(now.AddDate(1, 0, 0)) {
		t.Errorf("longer than its root: %v, %v", until, err)
	}
	if _, err := v.Until([]byte(`{"signed":{}}`)); !errors.Is(err, trust.ErrMalformed) {
		t.Errorf("without: %v", err)
	}
}

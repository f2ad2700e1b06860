package deltas_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/fleetd/deltas"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/expand/find"
	"groundswell/topics"
)

// TestMain is the child too. What the new artifact begins with may be an order to fail.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == deltas.ChildCommand {
		if err := deltas.RunChild(context.Background(), encode, lookThrough); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(deltas.ExitCode(err))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func encode(ctx context.Context, w io.Writer, old, new []byte, o delta.Options) error {
	switch {
	case bytes.HasPrefix(new, []byte("crash")):
		panic("told to crash")
	case bytes.HasPrefix(new, []byte("refuse")):
		return errors.New("told to refuse")
	case bytes.HasPrefix(new, []byte("hog")):
		var all [][]byte
		for range 1024 {
			piece := make([]byte, 16<<20)
			for i := 0; i < len(piece); i += 4096 {
				piece[i] = 1
			}
			all = append(all, piece)
		}
		return fmt.Errorf("nobody stopped %d pieces", len(all))
	case bytes.HasPrefix(new, []byte("hang")):
		<-time.After(time.Hour)
	case bytes.HasPrefix(new, []byte("lie")):
		other := bytes.Clone(new)
		other[len(other)-1]++
		new = other
	}
	return delta.Encode(ctx, w, old, new, o)
}

func lookThrough(ctx context.Context, w io.Writer, old, new []byte, o find.Options) error {
	switch {
	case bytes.HasPrefix(new, []byte("through: crash")), os.Getenv("THROUGH") == "crash":
		panic("told to crash")
	case bytes.HasPrefix(new, []byte("through: hang")):
		<-time.After(time.Hour)
	case bytes.HasPrefix(new, []byte("through: lie")):
		other := bytes.Clone(new)
		other[100]++ // before what is compressed
		new = other
	}
	return find.Encode(ctx, w, old, new, o)
}

// fixture is a world with releases whose bytes are there.
type fixture struct {
	*storetest.World
	db    *store.Store // of a fleetd that makes deltas
	blobs *artifact.Blobs
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	blobs, err := artifact.OpenBlobs(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{World: storetest.New(t, nil), blobs: blobs}
	f.db = f.OpenWith(store.Options{Deltas: 50})
	return f
}

// Open and Put make it the worker's Blobs.
func (f *fixture) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	return f.blobs.Open(ctx, sha256)
}

func (f *fixture) Put(ctx context.Context, sha256 string, length int64, source io.Reader) error {
	_, err := f.blobs.Put(ctx, sha256, length, source)
	return err
}

func (f *fixture) put(raw []byte) topics.Document {
	f.T.Helper()
	digest := sha256.Sum256(raw)
	d := topics.Document{Length: int64(len(raw)), SHA256: hex.EncodeToString(digest[:])}
	if err := f.Put(f.T.Context(), d.SHA256, d.Length, bytes.NewReader(raw)); err != nil {
		f.T.Fatal(err)
	}
	storetest.Must1(f.PutArtifact(f.T.Context(), storetest.Alice, fleet.Artifact{SHA256: d.SHA256, Length: d.Length}))
	return d
}

func (f *fixture) release(version string, raw []byte) fleet.Release {
	f.T.Helper()
	x, err := block.Make(f.T.Context(), bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		f.T.Fatal(err)
	}
	a, index := f.put(raw), f.put(x.Bytes())
	r := fleet.Release{Component: "system", Name: "camera", Version: version, Path: "system/camera/" + version, Length: a.Length, SHA256: a.SHA256,
		Models: []string{"m1"}, Index: &index}
	pin := &topics.SnapshotPin{Version: time.Now().UnixNano(), Length: 10, SHA256: a.SHA256}
	return storetest.Must(f.PublishReleases(f.T.Context(), storetest.Alice, store.Publication{Releases: []fleet.Release{r}, Pin: pin}))[0]
}

// rollout brings devices that run 1.0.0 to a version.
func (f *fixture) rollout(version string) fleet.Rollout {
	f.T.Helper()
	return f.rolloutBy(version, fleet.PolicySpec{})
}

// rolloutBy is rollout with a policy.
func (f *fixture) rolloutBy(version string, policy fleet.PolicySpec) fleet.Rollout {
	f.T.Helper()
	ctx := f.T.Context()
	f.Seed(3)
	if _, err := f.Cohort(ctx, "all"); errors.Is(err, fleet.ErrNotFound) {
		storetest.Must(f.CreateCohort(ctx, storetest.Alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	}
	r := storetest.Must(f.CreateRollout(ctx, storetest.Alice, fleet.RolloutSpec{Release: "camera", Version: version, Cohorts: []string{"all"}, PolicySpec: policy}))
	return storetest.Must(f.db.StartRollout(ctx, storetest.Alice, r.ID, r.Revision, ""))
}

func (f *fixture) config() deltas.Config {
	return deltas.Config{Store: f.db, Blobs: f, Encoder: deltas.Child{}, Holder: "one", Tick: 10 * time.Millisecond, PublishEvery: time.Millisecond, Dir: f.T.TempDir()}
}

// work runs a worker until something holds of the only source of a rollout.
func (f *fixture) work(cfg deltas.Config, r fleet.Rollout, what string, until func(fleet.DeltaSource) bool) fleet.DeltaSource {
	f.T.Helper()
	ctx, stop := context.WithCancel(f.T.Context())
	done := make(chan error, 1)
	go func() { done <- deltas.New(cfg).Run(ctx) }()
	var source fleet.DeltaSource
	devtest.Eventually(f.T, 2*time.Minute, what, func() error {
		now := storetest.Must(f.db.Rollout(f.T.Context(), r.ID))
		if len(now.Deltas) != 1 {
			return fmt.Errorf("sources %+v", now.Deltas)
		}
		if source = now.Deltas[0]; !until(source) {
			return fmt.Errorf("it is %+v", source)
		}
		return nil
	})
	stop()
	if err := <-done; err != nil {
		f.T.Error(err)
	}
	if left := storetest.Must(os.ReadDir(cfg.Dir)); len(left) != 0 {
		f.T.Errorf("left behind: %v", left)
	}
	return source
}

// noise is incompressible.
func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(out) // never fails
	return out
}

func TestDevicesAreToldOfADelta(t *testing.T) {
	f := newFixture(t)
	old := noise(1, 600_000)
	target := bytes.Clone(old)
	copy(target[300_000:], "another version")
	from := f.release("1.0.0", old)
	to := f.release("1.1.0", target)
	r := f.rollout("1.1.0")
	if _, open := r.Current(); open {
		t.Fatal("the first wave is open already")
	}
	source := f.work(f.config(), r, "a delta that devices know of", func(s fleet.DeltaSource) bool { return s.Listed })
	x := f.index()
	if x.Artifact != to.SHA256 || len(x.Deltas) != 1 || x.Deltas[0].From != from.SHA256 || x.Deltas[0].Document != source.Delta || len(x.Expanded) != 0 {
		t.Fatalf("the delta index: %+v", x)
	}
	raw := f.read(x.Deltas[0].Document)
	made := storetest.Must(delta.Patch(raw, old, int64(len(target))))
	if !bytes.Equal(made, target) || len(raw) > 2000 {
		t.Errorf("a delta of %d bytes makes something else than the artifact", len(raw))
	}
	if text := f.Exec(`SELECT coder, seconds > 0, peak > 1000000, attempts FROM delta`); strings.TrimSpace(text) != "mixed|t|t|1" {
		t.Errorf("noted: %s", text)
	}
}

func TestAnEncoderThatFailsCostsADeltaAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name, begins, says string
		memory             int64
		attempts           int
	}{
		{"it crashes", "crash", "told to crash", 0, 3},
		{"it refuses", "refuse", "told to refuse", 0, 3},
		{"it makes what is wrong", "lie", "makes something else", 0, 3},
		{"it takes too long", "hang", "longer than it may: 1s", 0, 3},
		{"it wants too much memory", "hog", "out of memory", 64 << 20, 3},
		{"it would need too much memory", "", "deltas.memory allows", 1 << 20, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.release("1.0.0", noise(1, 150_000))
			f.release("1.1.0", append([]byte(c.begins), noise(2, 150_000)...))
			r := f.rollout("1.1.0")
			cfg := f.config()
			cfg.Encoder = deltas.Child{Memory: c.memory}
			switch c.begins {
			case "":
				cfg.Memory = c.memory
			case "hang":
				cfg.Timeout = time.Second
			}
			// What is tried again after a minute is tried at once.
			source := f.work(cfg, r, "a delta that is given up", func(s fleet.DeltaSource) bool {
				f.Exec(`UPDATE delta SET leased_until = NULL WHERE state = 'pending'`)
				return s.State == fleet.DeltaFailed
			})
			says := func(text string) bool { return strings.Contains(source.Error, text) }
			if !says(c.says) && !(c.begins == "hog" && says("ThreadSanitizer failed to allocate")) { // as it says it under -race
				t.Errorf("it says %q", source.Error)
			}
			if text := strings.TrimSpace(f.Exec(`SELECT attempts FROM delta`)); text != fmt.Sprint(c.attempts) {
				t.Errorf("%s attempts", text)
			}
			if _, e, err := f.db.Evidence(t.Context(), r.ID); err != nil || e.Deltas != nil {
				t.Errorf("the rollout waits for it: %v, %v", e.Deltas, err)
			}
		})
	}
}

func TestADeltaThatSavesNothingIsUseless(t *testing.T) {
	f := newFixture(t)
	f.release("1.0.0", noise(1, 500_000))
	f.release("1.1.0", noise(2, 500_000))
	r := f.rollout("1.1.0")
	source := f.work(f.config(), r, "a verdict", func(s fleet.DeltaSource) bool { return s.State == fleet.DeltaUseless })
	if _, err := f.blobs.Size(t.Context(), source.Delta.SHA256); source.Delta.Length < 400_000 || !errors.Is(err, artifact.ErrNoArtifact) {
		t.Errorf("%+v is stored: %v", source.Delta, err)
	}
}

func TestADeltaHalfAsLargeAsThePackedBlocksIsWorthIt(t *testing.T) {
	f := newFixture(t)
	old := noise(1, 500_000)
	f.release("1.0.0", old)
	f.release("1.1.0", append(bytes.Clone(old[:400_000]), noise(2, 100_000)...))
	r := f.rollout("1.1.0")
	cfg := f.config()
	packed := int64(100_000)
	cfg.Packed = func(context.Context, string) (int64, bool) { return packed, true }
	f.work(cfg, r, "a verdict", func(s fleet.DeltaSource) bool { return s.State == fleet.DeltaUseless })
	packed = 200_000
	f.Exec(`UPDATE delta SET state = 'pending', finished_at = NULL, attempts = 0`)
	f.work(cfg, r, "a delta", func(s fleet.DeltaSource) bool { return s.Listed })
}

func TestAWorkerThatStopsLetsGoOfItsJobAndItsChild(t *testing.T) {
	f := newFixture(t)
	f.release("1.0.0", noise(1, 500_000))
	f.release("1.1.0", append([]byte("hang"), noise(2, 500_000)...))
	r := f.rollout("1.1.0")
	var child string
	f.work(f.config(), r, "a child that hangs", func(s fleet.DeltaSource) bool {
		if s.State != fleet.DeltaRunning {
			return false
		}
		for _, p := range storetest.Must(os.ReadDir("/proc")) {
			line, _ := os.ReadFile("/proc/" + p.Name() + "/cmdline") // it may be gone
			status, _ := os.ReadFile("/proc/" + p.Name() + "/status")
			if strings.Contains(string(line), "\x00"+deltas.ChildCommand) && strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid())) {
				child = p.Name()
			}
		}
		return child != ""
	})
	if text := strings.TrimSpace(f.Exec(`SELECT state, attempts FROM delta`)); text != "pending|0" {
		t.Errorf("the job is %s", text)
	}
	var pid int
	if _, err := fmt.Sscan(child, &pid); err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
		t.Errorf("the child %s is still there: %v", child, err)
	}
}

// TestThePolicyOrTheDevicesPowerChoosesTheCoder: zstd for those that mostly sleep, where it
// is to be chosen for them.
func TestThePolicyOrTheDevicesPowerChoosesTheCoder(t *testing.T) {
	for _, c := range []struct {
		name, policy, config string
		polling              int // of three devices
		want                 delta.Coder
	}{
		{"nobody says", "", "", 3, delta.Mixed},
		{"the configuration", "", "zstd", 0, delta.Zstd},
		{"the policy before it", "mixed", "zstd", 3, delta.Mixed},
		{"auto for most that sleep", "auto", "mixed", 2, delta.Zstd},
		{"auto for few that sleep", "auto", "zstd", 1, delta.Mixed},
		{"auto for most that sleep, plain", "plain-auto", "mixed", 2, delta.Zstd},
		{"plain and mixed", "plain-mixed", "zstd", 3, delta.Mixed},
		{"auto in the configuration", "", "auto", 3, delta.Zstd},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			old := noise(1, 200_000)
			target := bytes.Clone(old)
			copy(target[100_000:], "another version")
			f.release("1.0.0", old)
			f.release("1.1.0", target)
			r := f.rolloutBy("1.1.0", fleet.PolicySpec{DeltaCoder: c.policy})
			f.Exec(fmt.Sprintf(`UPDATE contact SET mode = 'polling' WHERE device IN (SELECT device FROM contact ORDER BY device LIMIT %d)`, c.polling))
			cfg := f.config()
			cfg.Coder = c.config
			made := f.work(cfg, r, "a delta", func(s fleet.DeltaSource) bool { return s.State == fleet.DeltaReady })
			raw := storetest.Must(f.blobs.Open(t.Context(), made.Delta.SHA256))
			defer raw.Close()
			if head := storetest.Must(delta.ReadHead(raw)); head.Coder != c.want {
				t.Errorf("coded by %v, want %v", head.Coder, c.want)
			}
			if text := strings.TrimSpace(f.Exec(`SELECT coder FROM delta`)); text != c.want.String() {
				t.Errorf("noted: %s", text)
			}
		})
	}
}

// TestACoderThatNobodyKnowsIsSaid, and is not taken for another one.
func TestACoderThatNobodyKnowsIsSaid(t *testing.T) {
	f := newFixture(t)
	f.release("1.0.0", noise(7, 50_000))
	f.release("1.1.0", noise(7, 50_001))
	cfg := f.config()
	cfg.Coder = "lz4"
	source := f.work(cfg, f.rollout("1.1.0"), "a verdict", func(s fleet.DeltaSource) bool { return s.Error != "" })
	if !strings.Contains(source.Error, `there is no coder "lz4"`) || source.State == fleet.DeltaReady {
		t.Errorf("%+v", source)
	}
}

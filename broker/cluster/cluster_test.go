package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"groundswell/internal/ops"
	"groundswell/topics"
)

func config(t *testing.T) Config {
	return Config{
		Region: DefaultRegion, Node: "node-1", Dir: t.TempDir(), Sync: Sync{Interval: time.Second}, Shards: 1,
		Groups:         []string{topics.GroupRegistry, topics.GroupTelemetry},
		MaxUplinkBytes: 64 << 20, MaxRetainedBytes: 16 << 20, MaxInboxBytes: 16 << 20, MaxInboxPerTopic: 1000, MaxPending: 4096, StoreTimeout: 10 * time.Second,
	}
}

func open(t *testing.T, cfg Config) (*Cluster, error) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	c := New(cfg, ops.NewRegistry(), slog.New(slog.DiscardHandler))
	return c, c.Open(t.Context())
}

// openCluster opens a store that is closed at the test's end.
func openCluster(t *testing.T, change func(*Config)) *Cluster {
	t.Helper()
	cfg := config(t)
	if change != nil {
		change(&cfg)
	}
	c, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func mustAnswer(t *testing.T, c *Cluster, cohort string, version int64, payload string) error {
	t.Helper()
	result := make(chan error, 1)
	c.Put(Retained{Name: topics.Name{Kind: topics.KindManifest, ID: cohort}, Version: version, Payload: []byte(payload)},
		func(err error) { result <- err })
	return <-result
}

// TestRacingWritersNeverGoBack: two fleetds, many versions at once, in any
// order; the highest wins and each refusal names a version that was retained.
func TestRacingWritersNeverGoBack(t *testing.T) {
	c := openCluster(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var seen []int64
	var watcher sync.WaitGroup
	watcher.Go(func() {
		_ = c.Watch(ctx, func(r Retained) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, r.Version)
		})
	})
	const rounds, writers, top = 150, 4, 150*4 + 1
	for round := range int64(rounds) {
		var wg sync.WaitGroup
		for writer := range int64(writers) {
			wg.Go(func() {
				version := round*writers + writer + 1
				// Not by Put, whose queue would keep writers on one node apart:
				// these are several nodes.
				err := c.put(Retained{Name: topics.Name{Kind: topics.KindManifest, ID: "a"}, Version: version, Payload: fmt.Append(nil, version)})
				var stale *StaleError
				switch {
				case err == nil:
				case errors.As(err, &stale) && stale.Retained > version:
				case errors.Is(err, ErrBusy): // overtaken too often, nothing was written
				default:
					t.Errorf("version %d: %v", version, err)
				}
			})
		}
		wg.Wait()
	}
	if err := mustAnswer(t, c, "a", top, fmt.Sprint(top)); err != nil {
		t.Fatal(err)
	}
	r, err := c.Get(t.Context(), topics.Name{Kind: topics.KindManifest, ID: "a"})
	if err != nil || r.Version != top || string(r.Payload) != fmt.Sprint(top) {
		t.Fatalf("got %+v, %v", r, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		mu.Lock()
		done := len(seen) > 0 && seen[len(seen)-1] == top
		mu.Unlock()
		if done || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	watcher.Wait()
	for i := 1; i < len(seen); i++ {
		if seen[i] <= seen[i-1] {
			t.Fatalf("live subscribers would see %d after %d", seen[i], seen[i-1])
		}
	}
	if len(seen) == 0 || seen[len(seen)-1] != top {
		t.Fatalf("the newest version was not seen: %v", seen)
	}
}

func TestGetOfNothing(t *testing.T) {
	c := openCluster(t, nil)
	if _, err := c.Get(t.Context(), topics.Name{Kind: topics.KindManifest, ID: "a"}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestScanEndsAlthoughOthersWrite(t *testing.T) {
	c := openCluster(t, nil)
	for i := range 20 {
		if err := mustAnswer(t, c, fmt.Sprintf("c%d", i), 1, "x"); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	err := c.Scan(t.Context(), topics.AllManifests, func(r Retained) bool {
		seen++
		// Every message that is still to come is replaced while we look.
		for i := range 20 {
			if err := mustAnswer(t, c, fmt.Sprintf("c%d", i), int64(seen+1), "y"); err != nil {
				t.Error(err)
			}
		}
		return seen < 1000
	})
	if err != nil || seen > 20 {
		t.Fatalf("saw %d, %v", seen, err)
	}
	if err := c.Scan(t.Context(), topics.AllAssignments, func(Retained) bool { t.Error("found something"); return true }); err != nil {
		t.Fatal(err)
	}
}

// TestShardsAreFixed: with another number of shards a device's reports would
// overtake one another, and some would be stranded.
func TestShardsAreFixed(t *testing.T) {
	cfg := config(t)
	cfg.Shards = 2
	c, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	cfg.Shards = 1
	if c, err := open(t, cfg); err == nil {
		c.Close()
		t.Fatal("opened with fewer shards")
	}
}

// TestBacklogOfAnUndeclaredGroupIsKept: a group that is missing from the
// configuration by mistake must not lose anything.
func TestBacklogOfAnUndeclaredGroupIsKept(t *testing.T) {
	cfg := config(t)
	c, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	c.Store(Uplink{Name: topics.Name{Kind: topics.KindStatus, ID: "cam-1"}, Payload: []byte("x")}, func(_ Stored, err error) { result <- err })
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	c.Close()
	smaller := cfg
	smaller.Groups = cfg.Groups[:1]
	if c, err = open(t, smaller); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if c, err = open(t, cfg); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g, _ := c.Group(topics.GroupTelemetry)
	if n, err := g.Backlog(t.Context()); err != nil || n != 1 {
		t.Fatalf("backlog %d, %v", n, err)
	}
}

func TestParseSync(t *testing.T) {
	for text, want := range map[string]Sync{"always": {Always: true}, "100ms": {Interval: 100 * time.Millisecond}} {
		if got, err := ParseSync(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "never", "0", "-1s", "1us", "2h", "Always"} {
		if _, err := ParseSync(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestScanLooksOnlyWhereTheFilterCanMatch(t *testing.T) {
	for filter, want := range map[string]string{
		topics.AllManifests:            "[retained.manifest.*]",
		topics.AllAssignments:          "[retained.assignment.*]",
		"fleet/v1/#":                   "[retained.manifest.* retained.assignment.*]",
		"fleet/v1/+/+/+":               "[retained.manifest.* retained.assignment.*]",
		"fleet/v1/cohorts/a/#":         "[retained.manifest.a]",
		"fleet/v1/cohorts/a/manifest":  "[retained.manifest.a]",
		"fleet/v1/devices/cam-1/+":     "[retained.assignment.cam-1]",
		"fleet/v1/devices/+/status":    "[]",
		"fleet/v1/cohorts/+/+/#":       "[retained.manifest.*]",
		"fleet/v1/cohorts/+/+/+":       "[]",
		"fleet/v1/cohorts/-*>/#":       "[]",
		"fleet/v1/cohorts":             "[]",
		"fleet/v1/devices/+/+/sub/all": "[]",
	} {
		if got := fmt.Sprint(retainedSubjects(filter)); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}
}

func FuzzSubjects(f *testing.F) {
	f.Add("uplink.0.status.cam-1", "fleet/v1/+/+/+")
	f.Add("retained.manifest.a", "fleet/v1/cohorts/a/#")
	f.Fuzz(func(t *testing.T, subject, filter string) {
		if name, err := uplinkName(subject); err == nil && !topics.ValidID(name.ID) {
			t.Errorf("%q reads as %v", subject, name)
		}
		if name, err := retainedName(subject); err == nil && retainedSubject(name) != subject {
			t.Errorf("%q reads as %v", subject, name)
		}
		// A filter that matches a retained topic finds its subject.
		for _, name := range []topics.Name{{Kind: topics.KindManifest, ID: "a"}, {Kind: topics.KindAssignment, ID: "b"}} {
			if topics.CheckFilter(filter) != nil || !topics.Match(filter, name.String()) {
				continue
			}
			found := false
			for _, s := range retainedSubjects(filter) {
				found = found || s == retainedSubject(name) || s == "retained."+string(name.Kind)+".*"
			}
			if !found {
				t.Errorf("%q matches %s and does not find it", filter, name)
			}
		}
	})
}

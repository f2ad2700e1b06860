package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/topics"
)

// disk stands between the committer and fsync.
type disk struct {
	mu     sync.Mutex
	synced []string // paths, in order
	fail   error
	hold   chan struct{} // if not nil, fsync waits for it
}

func (d *disk) fsync(path string) error {
	if d.hold != nil {
		<-d.hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.synced = append(d.synced, path)
	return d.fail
}

func (d *disk) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	paths := d.synced
	d.synced = nil
	slices.Sort(paths)
	return paths
}

func startCommitter(t *testing.T, dir string, d *disk) *committer {
	k := newCommitter(dir)
	k.fsync = d.fsync
	k.start()
	t.Cleanup(k.close)
	return k
}

func wait(t *testing.T, k *committer) error {
	t.Helper()
	result := make(chan error, 1)
	k.after(func(err error) { result <- err })
	select {
	case err := <-result:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCommitSynchronisesWhatChangedAndNewNames(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "s", "a.blk"), filepath.Join(dir, "s", "b.blk")
	old := time.Now().Add(-time.Hour)
	write(t, a, "1")
	_ = os.Chtimes(a, old, old)
	d := &disk{}
	k := startCommitter(t, dir, d)
	if err := wait(t, k); err != nil {
		t.Fatal(err)
	}
	if got := d.take(); !slices.Contains(got, a) || !slices.Contains(got, filepath.Dir(a)) || !slices.Contains(got, dir) {
		t.Errorf("first commit: %q", got)
	}
	if err := wait(t, k); err != nil {
		t.Fatal(err)
	}
	if got := d.take(); len(got) != 0 {
		t.Errorf("nothing changed: %q", got)
	}
	write(t, b, "2")
	if err := wait(t, k); err != nil {
		t.Fatal(err)
	}
	if got := d.take(); !slices.Equal(got, []string{filepath.Dir(b), b}) {
		t.Errorf("new file: %q", got)
	}
	write(t, a, "12")
	_ = os.Chtimes(a, old, old.Add(-time.Hour)) // even if the clock goes back
	_ = os.Remove(b)
	if err := wait(t, k); err != nil {
		t.Fatal(err)
	}
	if got := d.take(); !slices.Equal(got, []string{a}) {
		t.Errorf("grown file: %q", got)
	}
}

func TestOneCommitServesAllWhoWait(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	d := &disk{hold: make(chan struct{})}
	k := startCommitter(t, dir, d)
	var wg sync.WaitGroup
	answer := func(err error) {
		if err != nil {
			t.Error(err)
		}
		wg.Done()
	}
	const total = 100
	wg.Add(total)
	for range total {
		k.after(answer)
	}
	close(d.hold)
	wg.Wait()
	if got := len(d.take()); got > 3*3 {
		t.Errorf("%d fsyncs for %d who waited", got, total)
	}
}

func TestFailedFsyncRefusesEverythingFromThenOn(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	d := &disk{fail: errors.New("input/output error")}
	k := startCommitter(t, dir, d)
	if err := wait(t, k); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	d.mu.Lock()
	d.fail = nil // the kernel reports an error once and forgets the pages
	d.mu.Unlock()
	if err := wait(t, k); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("afterwards: got %v", err)
	}
	if k.err() == nil {
		t.Error("readiness would not say it")
	}
}

// TestStoredMeansThatAnFsyncSawTheMessage: JetStream has written a message to
// its file before it acknowledges, so the fsync that follows covers it. This is
// what the committer rests on.
func TestStoredMeansThatAnFsyncSawTheMessage(t *testing.T) {
	c := openCluster(t, func(cfg *Config) { cfg.Sync = Sync{Always: true} })
	var mu sync.Mutex
	var all strings.Builder // what was in the files when they were synchronised
	c.commit.fsync = func(path string) error {
		mu.Lock()
		defer mu.Unlock()
		if data, err := os.ReadFile(path); err == nil {
			all.Write(data)
		}
		return nil
	}
	for _, payload := range []string{"first-payload-xyz", "second-payload-xyz"} {
		result := make(chan error, 1)
		c.Store(Uplink{Name: topics.Name{Kind: topics.KindStatus, ID: "cam-1"}, Payload: []byte(payload)}, func(_ Stored, err error) { result <- err })
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if !strings.Contains(all.String(), payload) {
			t.Errorf("%s was reported as stored, and no fsync has seen it", payload)
		}
		mu.Unlock()
	}
	result := make(chan error, 1)
	c.Put(Retained{Name: topics.Name{Kind: topics.KindManifest, ID: "a"}, Version: 1, Payload: []byte("manifest-xyz")}, func(err error) { result <- err })
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(all.String(), "manifest-xyz") {
		t.Error("a manifest was reported as stored, and no fsync has seen it")
	}
}

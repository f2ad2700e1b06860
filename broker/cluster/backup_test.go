package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// fill stores something of everything, of which the registry group has handled the
// first report.
func fill(t *testing.T, c *Cluster) {
	t.Helper()
	for i := range 3 {
		result := make(chan error, 1)
		c.Store(status("cam-1", fmt.Sprint("report ", i)), func(_ Stored, err error) { result <- err })
		if err := <-result; err != nil {
			t.Fatal(err)
		}
	}
	handled := fetch(t, c, topics.GroupRegistry, 3, func(payload string) bool { return payload == "report 0" })
	if len(handled) != 3 {
		t.Fatalf("the group got %q", handled)
	}
	// Nobody waits for an acknowledgement to arrive, and a backup has those that have.
	devtest.Eventually(t, 0, "the store to know what was handled", func() error {
		g, _ := c.Group(topics.GroupRegistry)
		if n, err := g.Backlog(t.Context()); err != nil || n != 2 {
			return fmt.Errorf("a backlog of %d, %w", n, err)
		}
		return nil
	})
	if err := mustAnswer(t, c, "a", 5, "manifest 5"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(t.Context(), "cam-1", Claim{Node: "node-1", Connection: 7, State: []byte(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	c.Inbox().Append(Message{Topic: topics.DeviceCommand("cam-1"), Payload: []byte("command"), Attributes: json.RawMessage(`{}`)}, func(_ uint64, err error) { result <- err })
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

// fetch gets up to n messages of a group, acknowledges those that done says, returns
// the others at once, and returns the payloads.
func fetch(t *testing.T, c *Cluster, group string, n int, done func(payload string) bool) []string {
	t.Helper()
	g, ok := c.Group(group)
	if !ok {
		t.Fatalf("no group %s", group)
	}
	got := map[string]bool{}
	devtest.Eventually(t, 0, fmt.Sprintf("%d messages of %s", n, group), func() error {
		for shard := range g.Shards() {
			err := g.Fetch(t.Context(), shard, n, func(d *Delivery) {
				got[string(d.Payload)] = true
				end := func() error { return d.Return(0) }
				if done(string(d.Payload)) {
					end = d.Done
				}
				if err := end(); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				return err
			}
		}
		if len(got) < n {
			return fmt.Errorf("%d came", len(got))
		}
		return nil
	})
	var payloads []string
	for payload := range got {
		payloads = append(payloads, payload)
	}
	slices.Sort(payloads)
	return payloads
}

// holds checks what fill has stored.
func holds(t *testing.T, c *Cluster) {
	t.Helper()
	ctx := t.Context()
	nothing := func(string) bool { return false }
	if got := fetch(t, c, topics.GroupRegistry, 2, nothing); !slices.Equal(got, []string{"report 1", "report 2"}) {
		t.Errorf("the group that had handled one got %q", got)
	}
	if got := fetch(t, c, topics.GroupTelemetry, 3, nothing); len(got) != 3 {
		t.Errorf("the group that had handled none got %q", got)
	}
	var stale *StaleError
	if err := mustAnswer(t, c, "a", 4, "manifest 4"); !errors.As(err, &stale) || stale.Retained != 5 {
		t.Errorf("an older manifest: %v", err)
	}
	claim, err := c.Lookup(ctx, "cam-1")
	if err != nil || claim.Connection != 7 || string(claim.State) != `{"a":1}` {
		t.Errorf("claim %+v, %v", claim, err)
	}
	m, err := c.Inbox().Next(ctx, []string{topics.DeviceCommand("cam-1")}, 1)
	if err != nil || string(m.Payload) != "command" {
		t.Errorf("command %+v, %v", m, err)
	}
}

func TestABackupBecomesAnotherStore(t *testing.T) {
	c := openCluster(t, nil)
	fill(t, c)
	backup, err := c.Backup(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := mustAnswer(t, c, "b", 1, "too late"); err != nil {
		t.Fatal(err)
	}

	cfg := config(t)
	cfg.Restore = backup
	for round := range 2 { // the second time there is nothing to restore
		restored, err := open(t, cfg)
		if err != nil {
			restored.Close()
			t.Fatal(err)
		}
		holds(t, restored)
		if err := mustAnswer(t, restored, "b", int64(round)+1, "new"); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		restored.Close()
	}
}

func TestThreeNodesBeginWithTheBackupOfOne(t *testing.T) {
	r := newTrio(t, func(cfg *Config) { cfg.Shards = 1 })
	fill(t, r.nodes[1])
	backup, err := r.nodes[2].Backup(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.nodes {
		r.close(i)
		r.cfgs[i].Dir, r.cfgs[i].Restore = t.TempDir(), backup
	}
	var all sync.WaitGroup
	for i := range r.nodes {
		all.Go(func() { r.open(i) })
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, c := range r.nodes {
		holds(t, c)
	}
}

func TestWhatIsNoBackupIsRefused(t *testing.T) {
	c := openCluster(t, nil)
	fill(t, c)
	for name, spoil := range map[string]func(dir string) error{
		"not there":  os.RemoveAll,
		"unfinished": func(dir string) error { return os.Remove(filepath.Join(dir, contentsFile)) },
		"another format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, contentsFile), []byte(`{"version":2}`), 0o600)
		},
		"more shards": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, contentsFile), []byte(`{"version":1,"shards":2}`), 0o600)
		},
		"names that lead out": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, contentsFile), []byte(`{"version":1,"shards":1,"streams":["../x"]}`), 0o600)
		},
		"a stream is missing": func(dir string) error { return os.RemoveAll(filepath.Join(dir, retainedStream)) },
		"a stream is damaged": func(dir string) error {
			file := filepath.Join(dir, retainedStream, "stream.arc.s2")
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(file, data, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			backup, err := c.Backup(t.Context(), t.TempDir())
			if err == nil {
				err = spoil(backup)
			}
			if err != nil {
				t.Fatal(err)
			}
			cfg := config(t)
			cfg.Restore, cfg.StoreTimeout = backup, 2*time.Second
			if _, err := open(t, cfg); !errors.Is(err, ErrBackup) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBackupsAreMadeWhenAskedAndTheOldestGo(t *testing.T) {
	dir := t.TempDir()
	c := openCluster(t, func(cfg *Config) { cfg.Backups = Backups{Dir: dir, Keep: 2} })
	fill(t, c)
	if err := os.WriteFile(filepath.Join(dir, "node-1-notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan os.Signal)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.BackUp(ctx, asked)
	}()
	var seen []string
	for range 4 {
		asked <- os.Interrupt
		devtest.Eventually(t, 0, "another backup", func() error {
			names, err := c.backups(dir)
			if err != nil || len(names) == 0 || slices.Contains(seen, names[len(names)-1]) {
				return fmt.Errorf("there are %q, %w", names, err)
			}
			seen = append(seen, names[len(names)-1])
			return nil
		})
	}
	stop()
	<-done
	names, err := c.backups(dir)
	if err != nil || !slices.Equal(names, seen[2:]) {
		t.Errorf("there are %q of %q, %v", names, seen, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 { // and the notes
		t.Errorf("there are %v, %v", entries, err)
	}
}

// TestAStoreWithSomeStreamsIsNotMixedWithABackup: unless its restore was interrupted.
func TestAStoreWithSomeStreamsIsNotMixedWithABackup(t *testing.T) {
	c := openCluster(t, nil)
	fill(t, c)
	backup, err := c.Backup(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	first, err := open(t, cfg)
	if err == nil {
		err = first.admin.DeleteStream(t.Context(), retainedStream)
	}
	first.Close()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Restore = backup
	if _, err := open(t, cfg); !errors.Is(err, ErrBackup) {
		t.Fatalf("got %v", err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, restoring), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Get(t.Context(), topics.Name{Kind: topics.KindManifest, ID: "a"}); err != nil {
		t.Error(err)
	}
}

// TestASharedSubscriptionThatWasForgottenBeginsAnew: nobody had asked for long.
func TestASharedSubscriptionThatWasForgottenBeginsAnew(t *testing.T) {
	c := openCluster(t, func(cfg *Config) { cfg.MaxOpenBytes = 1 << 20 })
	g, err := c.OpenGroup(t.Context(), "$share/g/t")
	if err != nil {
		t.Fatal(err)
	}
	for name := range c.open.stream.ConsumerNames(t.Context()).Name() {
		if err := c.open.stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, 10)
	fetch := func() {
		if err := g.Fetch(t.Context(), 0, 1, func(d *Delivery) {
			got <- string(d.Open.Payload)
			_ = d.Done()
		}); err != nil {
			t.Error(err)
		}
	}
	fetch()
	done := make(chan error, 1)
	c.OpenTopics().Append(Message{Topic: "t", Payload: []byte("x"), Attributes: json.RawMessage(`{}`)}, func(_ uint64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "the message", func() error {
		fetch()
		select {
		case payload := <-got:
			if payload != "x" {
				t.Errorf("got %q", payload)
			}
			return nil
		default:
			return errors.New("nothing came")
		}
	})
}

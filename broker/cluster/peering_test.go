package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// trio is three stores that are one.
type trio struct {
	t     *testing.T
	ca    *certs.CA
	nodes []*Cluster
	cfgs  []Config
}

func (r *trio) tls() *tls.Config {
	r.t.Helper()
	credential, err := r.ca.IssueService(certs.ServiceBroker, nil, time.Hour)
	if err != nil {
		r.t.Fatal(err)
	}
	config, err := certs.PeerTLS(certs.TLSOptions{Credential: credential, Authority: r.ca.Authority()}, certs.ServiceBroker)
	if err != nil {
		r.t.Fatal(err)
	}
	return config
}

func newTrio(t *testing.T, change func(*Config)) *trio {
	t.Helper()
	t.Parallel()
	ca, err := certs.NewCA("fleet.test", time.Now().Add(-time.Hour), time.Hour*24)
	if err != nil {
		t.Fatal(err)
	}
	r := &trio{t: t, ca: ca, nodes: make([]*Cluster, 3)}
	routes := devtest.FreeAddresses(t, 3)
	for i := range 3 {
		cfg := config(t)
		cfg.Node, cfg.Shards = fmt.Sprintf("node-%d", i+1), 2
		cfg.Peering = &Peering{Cluster: "test", Listen: routes[i], Routes: routes, TLS: r.tls(), Replicas: 3}
		if change != nil {
			change(&cfg)
		}
		r.cfgs = append(r.cfgs, cfg)
	}
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() { r.open(i) })
	}
	all.Wait()
	t.Cleanup(func() {
		for i := range r.nodes {
			r.close(i)
		}
	})
	return r
}

func (r *trio) open(i int) {
	if err := r.cfgs[i].Validate(); err != nil {
		r.t.Error(err)
		return
	}
	c := New(r.cfgs[i], ops.NewRegistry(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.Open(ctx); err != nil {
		r.t.Errorf("node %d: %v", i+1, err)
		return
	}
	r.nodes[i] = c
}

func (r *trio) close(i int) {
	if r.nodes[i] != nil {
		r.nodes[i].Close()
		r.nodes[i] = nil
	}
}

// stored stores one report, trying again while nobody can.
func (r *trio) stored(c *Cluster, device, payload string) {
	r.t.Helper()
	devtest.Eventually(r.t, time.Minute, "a report to be stored", func() error {
		result := make(chan error, 1)
		c.Store(status(device, payload), func(_ Stored, err error) { result <- err })
		return <-result
	})
}

func status(device, payload string) Uplink {
	return Uplink{Name: topics.Name{Kind: topics.KindStatus, ID: device}, Payload: []byte(payload), Model: "m", Hardware: "h"}
}

// take fetches what a group gets on a node until want have come, and handles it.
func take(t *testing.T, c *Cluster, want int) map[string]int {
	t.Helper()
	got := map[string]int{}
	g, _ := c.Group(topics.GroupRegistry)
	devtest.Eventually(t, time.Minute, fmt.Sprintf("%d reports", want), func() error {
		for shard := range g.Shards() {
			err := g.Fetch(t.Context(), shard, 100, func(d *Delivery) {
				got[string(d.Payload)]++
				if err := d.Done(); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				return err
			}
		}
		if len(got) < want {
			return fmt.Errorf("%d so far", len(got))
		}
		return nil
	})
	return got
}

func TestThreeNodesAreOneStore(t *testing.T) {
	r := newTrio(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	seen := make([][]int64, 3)
	var watchers sync.WaitGroup
	for i, c := range r.nodes {
		watchers.Go(func() {
			_ = c.Watch(ctx, func(m Retained) {
				mu.Lock()
				defer mu.Unlock()
				seen[i] = append(seen[i], m.Version)
			})
		})
	}
	// Each node puts; each sees the newest, and nothing go back.
	for version := range int64(9) {
		if err := mustAnswer(t, r.nodes[version%3], "eu", version+1, fmt.Sprint(version+1)); err != nil {
			t.Fatalf("version %d: %v", version+1, err)
		}
	}
	var stale *StaleError
	if err := mustAnswer(t, r.nodes[1], "eu", 3, "3"); !errors.As(err, &stale) || stale.Retained < 3 || stale.Retained > 9 { // the copy that answers may be a moment behind
		t.Errorf("an older version on another node: %v", err)
	}
	devtest.Eventually(t, 0, "every node to see the newest version", func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, versions := range seen {
			if len(versions) == 0 || versions[len(versions)-1] != 9 || !slices.IsSorted(versions) {
				return fmt.Errorf("%v", seen)
			}
		}
		return nil
	})
	cancel()
	watchers.Wait()

	// What is stored on one node a group gets on another.
	for i := range 20 {
		r.stored(r.nodes[0], fmt.Sprintf("cam-%d", i), fmt.Sprint(i))
	}
	if got := take(t, r.nodes[2], 20); len(got) != 20 {
		t.Errorf("got %v", got)
	}

	// Two go on without the third, which catches up.
	r.close(0)
	r.stored(r.nodes[1], "cam-1", "while one is away")
	devtest.Eventually(t, time.Minute, "the two to put", func() error { return mustAnswer(t, r.nodes[2], "eu", 10, "10") })
	r.open(0)
	// What was handled last before may come once more: who handled it may have died with
	// the acknowledgement.
	devtest.Eventually(t, time.Minute, "the report from meanwhile", func() error {
		if got := take(t, r.nodes[0], 1); got["while one is away"] == 0 {
			return fmt.Errorf("got %v", got)
		}
		return nil
	})
	devtest.Eventually(t, 0, "the one that was away to know the newest version", func() error {
		m, err := r.nodes[0].Get(t.Context(), topics.Name{Kind: topics.KindManifest, ID: "eu"})
		if err != nil || m.Version != 10 {
			return fmt.Errorf("%+v, %w", m, err)
		}
		return nil
	})
	devtest.Eventually(t, 0, "it to be ready", func() error { return r.nodes[0].Ready(t.Context()) })
}

func TestAMinorityTakesNothing(t *testing.T) {
	r := newTrio(t, func(cfg *Config) { cfg.StoreTimeout = time.Second })
	r.stored(r.nodes[0], "cam-1", "before")
	r.close(1)
	r.close(2)
	devtest.Eventually(t, time.Minute, "the last node to say that it is not ready", func() error {
		if err := r.nodes[0].Ready(t.Context()); !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	result := make(chan error, 1)
	r.nodes[0].Store(status("cam-1", "alone"), func(_ Stored, err error) { result <- err })
	if err := <-result; !errors.Is(err, ErrUnavailable) {
		t.Errorf("a minority took a report: %v", err)
	}
	if err := mustAnswer(t, r.nodes[0], "eu", 1, "x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a minority took a manifest: %v", err)
	}
	// It heals by itself.
	r.open(1)
	r.stored(r.nodes[0], "cam-1", "after")
	if got := take(t, r.nodes[1], 2); got["before"] == 0 || got["after"] == 0 {
		t.Errorf("got %v", got)
	}
}

func TestPeeringIsRefusedByField(t *testing.T) {
	for field, change := range map[string]func(*Peering){
		"cluster.name":      func(p *Peering) { p.Cluster = "a b" },
		"cluster.listen":    func(p *Peering) { p.Listen = "nowhere" },
		"cluster.advertise": func(p *Peering) { p.Advertise = "nowhere" },
		"cluster.routes":    func(p *Peering) { p.Routes = nil },
		"cluster.routes[1]": func(p *Peering) { p.Routes = []string{"a:1", "b:0"} },
		"cluster.replicas":  func(p *Peering) { p.Replicas = 2 },
	} {
		cfg := config(t)
		cfg.Peering = &Peering{Cluster: "eu", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1"}, TLS: &tls.Config{}, Replicas: 3}
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
		change(cfg.Peering)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

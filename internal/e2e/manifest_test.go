package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/simulated"
	"groundswell/internal/devstack/stack"
)

// follows waits until a device holds a manifest in which the rollout stands as
// in fleetd's database, and fails if the device ever had to refuse a message.
// Only a broker that was itself set back may send older ones.
func (p *platform) follows(d *simulated.Device, r *stack.Rollout) {
	p.t.Helper()
	devtest.Eventually(p.t, time.Minute, d.ID+" to hold what fleetd holds", func() error {
		now, err := p.Rollout(p.t.Context(), r.ID)
		if err != nil {
			return err
		}
		held, _ := d.Held()
		for _, e := range held[cohort].Entries {
			if e.Rollout == r.ID {
				if e.Revision == now.Revision && string(e.State) == now.State {
					return nil
				}
				return fmt.Errorf("the device has revision %d, %s; fleetd has %d, %s", e.Revision, e.State, now.Revision, now.State)
			}
		}
		return errors.New("the device holds no such entry")
	})
	for _, refused := range refusals(d) {
		if !p.brokerWentBack || !errors.Is(refused, trust.ErrVersionRollback) {
			p.t.Fatalf("%s had to refuse what it was sent: %v", d.ID, refused)
		}
	}
}

func refusals(d *simulated.Device) []error {
	_, refused := d.Held()
	return refused
}

func (p *platform) change(r *stack.Rollout, action string) {
	p.t.Helper()
	devtest.Eventually(p.t, time.Minute, action, func() error {
		_, err := p.Change(p.t.Context(), r.ID, action, nil)
		return err
	})
}

// TestManifestSurvivesABrokerRestoredFromOldData: the broker comes back with
// the retained messages of an hour ago; the device gets the newest again.
func TestManifestSurvivesABrokerRestoredFromOldData(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true})
	r := p.rollout()
	d := p.devices[0]
	p.connect(d)
	p.follows(d, r)
	if err := p.Broker.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	data, old := filepath.Join(p.Dir, "broker"), filepath.Join(p.Dir, "broker-old")
	run(t, "cp", "-a", data, old)
	if err := p.RestartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.change(r, "pause")
	p.connect(d)
	p.follows(d, r)

	p.Broker.Kill()
	p.brokerWentBack = true
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	run(t, "cp", "-a", old, data)
	if err := p.RestartBroker(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The old manifest must not reach the device as news: it remembers a higher
	// version. So it asks again until fleetd has put things right.
	fresh, err := p.fleet.Device(d.ID, model, false)
	if err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "the newest manifest to be back", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := fresh.CheckIn(ctx); err != nil {
			return err
		}
		defer fresh.Disconnect()
		held, _ := fresh.Held()
		before, _ := d.Held()
		if held[cohort].Version < before[cohort].Version {
			return fmt.Errorf("version %d, the device had %d", held[cohort].Version, before[cohort].Version)
		}
		return nil
	})
	p.change(r, "resume")
	p.connect(d)
	p.follows(d, r)
}

// TestManifestSurvivesAPostgresRestoredFromABackup: fleetd's database goes back
// behind what devices have accepted; the next manifest is newer all the same.
func TestManifestSurvivesAPostgresRestoredFromABackup(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true})
	r := p.rollout()
	d := p.devices[0]
	p.connect(d)
	p.follows(d, r)
	backup, err := p.Postgres.Dump(t.Context(), "groundswell")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.change(r, "pause")
		p.change(r, "resume")
	}
	p.change(r, "pause")
	p.follows(d, r)
	if err := p.Fleetd.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := p.Postgres.Restore(t.Context(), "groundswell", backup); err != nil {
		t.Fatal(err)
	}
	if err := p.RestartFleetd(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The truth is the backup's: the rollout runs, at a lower revision. The
	// device must learn that, in a manifest of a higher version.
	p.follows(d, r)
	p.change(r, "pause")
	p.follows(d, r)
}

// TestTwoFleetdsNeverPublishBackwards: two replicas take changes in turn while
// one of them is killed; a device never sees a version go back, and ends with
// the newest.
func TestTwoFleetdsNeverPublishBackwards(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true})
	r := p.rollout()
	d := p.devices[0]
	p.connect(d)
	second, err := p.SecondFleetd(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Kill()
	for i := range 6 {
		p.change(r, "pause")
		if i == 3 {
			p.Fleetd.Kill() // between commit and publish, if it is slow
			if err := p.RestartFleetd(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		p.change(r, "resume")
	}
	p.change(r, "pause")
	p.follows(d, r)
}

// TestSecondOfTwoConcurrentPausesIsStale: two operators saw the same revision;
// one pauses, the other is told that the rollout has changed.
func TestSecondOfTwoConcurrentPausesIsStale(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true})
	r := p.rollout()
	r, err := p.Rollout(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]error, 2)
	for i := range results {
		wg.Go(func() { _, results[i] = p.ChangeRevision(t.Context(), r.ID, "pause", r.Revision, nil) })
	}
	wg.Wait()
	stale := 0
	for _, err := range results {
		var status *stack.StatusError
		switch {
		case err == nil:
		case errors.As(err, &status) && status.Status == 412:
			stale++
		default:
			t.Error(err)
		}
	}
	if stale != 1 {
		t.Errorf("%d of 2 were stale, want 1: %v", stale, results)
	}
	now, err := p.Rollout(t.Context(), r.ID)
	if err != nil || now.State != "paused" || now.Revision != r.Revision+1 {
		t.Errorf("now %s at revision %d (%v), want paused at %d", now.State, now.Revision, err, r.Revision+1)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

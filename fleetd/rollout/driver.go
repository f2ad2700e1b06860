// Package rollout drives rollouts: it opens waves when their gate lets it,
// pauses when a breaker trips, completes what is done, and starts what was
// scheduled.
//
// The driver decides nothing by itself: at each tick it reads evidence from
// fleetd/store, asks fleet.Decide, and writes what that said, guarded by the
// revision that it read. If an operator changed the rollout meanwhile, the
// write is stale and the next tick looks again.
//
// Any number of replicas run a driver; the holder of the lease drives. Each of
// its writes is fenced with the lease's term in the same transaction, so a
// driver that was stopped for a minute and wakes up cannot write what it
// decided before.
//
// Looking at a rollout costs about as much as counting its devices. So that a
// large fleet does not keep the database busy with that, a rollout whose look
// took long is looked at less often: at most a tenth of the time goes there.
package rollout

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/internal/ops"
)

// LeaseName names the lease of the driver.
const LeaseName = "driver"

// Config of a driver.
type Config struct {
	Store *store.Store
	// Tick is how often it looks. Default 1 s.
	Tick time.Duration
	// TTL of the lease, which is how long after the death of the driver
	// another replica waits. Default 10 s, at least 3 ticks.
	TTL time.Duration
	// Holder names this replica; a random part is added. Default "fleetd".
	Holder string
	// Eager looks at each rollout at every tick, whatever that costs.
	Eager bool
	// KeepTransfers is how long, after a rollout's end, what its devices said of bytes
	// is kept for each of them, before only the sums are left. 0: for ever.
	KeepTransfers time.Duration
	Metrics       *ops.Registry // nil: none
	Log           *slog.Logger  // nil: silent
}

// Driver drives rollouts while it holds the lease.
type Driver struct {
	cfg   Config
	lease store.Lease // zero: not held
	// notBefore is when a rollout is looked at next, by this process's clock.
	notBefore map[string]time.Time
	upkeepAt  time.Time
	sums      store.SumPass
	sumAt     time.Time
	summed    ops.Counter
}

// New makes a driver. It does no I/O.
func New(cfg Config) *Driver {
	if cfg.Tick <= 0 {
		cfg.Tick = time.Second
	}
	if cfg.TTL <= 0 {
		cfg.TTL = 10 * time.Second
	}
	cfg.TTL = max(cfg.TTL, 3*cfg.Tick)
	if cfg.Holder == "" {
		cfg.Holder = "fleetd"
	}
	// Two replicas, or one and its predecessor, must never be taken for one.
	cfg.Holder += "-" + rand.Text()[:8]
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = ops.NewRegistry()
	}
	return &Driver{cfg: cfg, notBefore: map[string]time.Time{},
		summed: cfg.Metrics.NewCounter("groundswell_transfers_summed_total", "Rows of where a device's bytes came from that were added to the sums of their rollout, and deleted.")}
}

// Run ticks until ctx ends, then lets go of the lease and returns nil.
func (d *Driver) Run(ctx context.Context) error {
	wait := mathrand.N(d.cfg.Tick)
	for {
		select {
		case <-ctx.Done():
			d.release(ctx)
			return nil
		case <-time.After(wait):
		}
		if err := d.Tick(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Log.Error("rollout driver failed, tries again", "err", err)
		}
		wait = d.cfg.Tick
	}
}

func (d *Driver) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := d.cfg.Store.ReleaseLease(ctx, LeaseName, d.cfg.Holder); err != nil {
		d.cfg.Log.Warn("lease not released, it runs out by itself", "err", err)
	}
}

// Tick takes or renews the lease and, if it has it, looks at every rollout
// that is due. Holding no lease is no error.
func (d *Driver) Tick(ctx context.Context) error {
	if err := d.hold(ctx); err != nil {
		if errors.Is(err, fleet.ErrConflict) {
			return nil
		}
		return err
	}
	due, err := d.cfg.Store.Due(ctx)
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(due))
	var failed error
	for _, r := range due {
		live[r.ID] = true
		began := time.Now()
		if !d.cfg.Eager && began.Before(d.notBefore[r.ID]) {
			continue
		}
		err := d.look(ctx, r)
		d.notBefore[r.ID] = time.Now().Add(9 * time.Since(began))
		switch {
		case err == nil:
		case errors.Is(err, fleet.ErrStale), errors.Is(err, fleet.ErrTransition):
			d.cfg.Log.Info("rollout changed meanwhile, looks again", "rollout", r.ID)
		case errors.Is(err, fleet.ErrFenced):
			d.lease = store.Lease{}
			return err
		default:
			// One that cannot be judged must not hold up the others.
			failed = errors.Join(failed, err)
		}
		if err := d.hold(ctx); err != nil {
			return err
		}
	}
	for id := range d.notBefore {
		if !live[id] {
			delete(d.notBefore, id)
		}
	}
	return errors.Join(failed, d.upkeep(ctx), d.sumTransfers(ctx))
}

func (d *Driver) hold(ctx context.Context) error {
	lease, err := d.cfg.Store.AcquireLease(ctx, LeaseName, d.cfg.Holder, d.cfg.TTL)
	if err != nil {
		d.lease = store.Lease{}
		return err
	}
	if lease.Term != d.lease.Term {
		d.cfg.Log.Info("driving rollouts", "holder", lease.Holder, "term", lease.Term)
		clear(d.notBefore)
	}
	d.lease = lease
	return nil
}

// look judges one rollout and writes the judgement.
func (d *Driver) look(ctx context.Context, r fleet.Rollout) error {
	if r.State == fleet.Scheduled {
		started, err := d.cfg.Store.StartScheduled(ctx, d.lease, r.ID, r.Revision)
		switch {
		case err != nil:
		case started.State == fleet.Cancelled:
			d.cfg.Log.Warn("scheduled rollout cancelled", "rollout", r.ID, "reason", started.Reason)
		default:
			d.cfg.Log.Info("scheduled rollout started", "rollout", r.ID)
		}
		return err
	}
	r, evidence, err := d.cfg.Store.Evidence(ctx, r.ID)
	if err != nil {
		return err
	}
	if r.State != fleet.Running && r.State != fleet.Completed {
		return nil
	}
	decision := fleet.Decide(r, evidence)
	members := evidence.Wave.Members + evidence.Wave.Absent
	if w, ok := r.Current(); ok && (decision.Move == fleet.Sampled || members != w.Members) {
		if err := d.cfg.Store.Observe(ctx, d.lease, r.ID, w.Index, members, decision.Move == fleet.Sampled); err != nil {
			return err
		}
	}
	switch decision.Move {
	case fleet.Halt:
		_, err = d.cfg.Store.HaltRollout(ctx, d.lease, r.ID, r.Revision, decision.Reason)
		if err == nil {
			d.cfg.Log.Warn("rollout paused by its breaker", "rollout", r.ID, "reason", decision.Reason)
		}
	case fleet.Open:
		_, err = d.cfg.Store.OpenNextWave(ctx, d.lease, r.ID, r.Revision, decision.Reason)
		if err == nil {
			d.cfg.Log.Info("next wave opened", "rollout", r.ID, "reason", decision.Reason)
		}
	case fleet.Widen:
		_, err = d.cfg.Store.WidenWave(ctx, d.lease, r.ID, r.Revision, decision.Reason)
		if err == nil {
			d.cfg.Log.Info("wave opened anew", "rollout", r.ID, "reason", decision.Reason)
		}
	case fleet.Complete:
		_, err = d.cfg.Store.CompleteRollout(ctx, d.lease, r.ID, r.Revision, decision.Reason)
		if err == nil {
			d.cfg.Log.Info("rollout completed", "rollout", r.ID, "reason", decision.Reason)
		}
	}
	return err
}

// upkeepEvery is how often the driver does what is due at leisure.
const upkeepEvery = 30 * time.Second

// upkeep signs anew what is half through its life, lets go of members whom no
// rollout holds any more, and prunes what is old.
func (d *Driver) upkeep(ctx context.Context) error {
	if time.Now().Before(d.upkeepAt) {
		return nil
	}
	d.upkeepAt = time.Now().Add(upkeepEvery)
	manifests, err := d.cfg.Store.RefreshManifests(ctx, 100)
	if err != nil {
		return err
	}
	assignments, err := d.cfg.Store.RefreshAssignments(ctx, 1000)
	if err != nil {
		return err
	}
	if manifests+assignments > 0 {
		d.cfg.Log.Info("metadata signed anew", "manifests", manifests, "assignments", assignments)
	}
	if manifests == 100 || assignments == 1000 {
		d.upkeepAt = time.Time{} // more is due: go on at the next tick
	}
	if _, err := d.cfg.Store.LetGo(ctx); err != nil {
		return err
	}
	return d.cfg.Store.Prune(ctx, 5000)
}

// A pass over the rollouts that are over begins so long after the last, and looks at so
// many devices at each tick.
const (
	sumEvery = time.Hour
	sumBatch = 1000
)

// sumTransfers goes on with a pass. Should another replica do so as well, that does no harm.
func (d *Driver) sumTransfers(ctx context.Context) error {
	if d.cfg.KeepTransfers <= 0 || time.Now().Before(d.sumAt) {
		return nil
	}
	next, rows, err := d.cfg.Store.SumTransfers(ctx, d.cfg.KeepTransfers, d.sums, sumBatch)
	if err != nil {
		d.sumAt = time.Now().Add(upkeepEvery)
		return err
	}
	d.summed.Add(float64(rows))
	if d.sums = next; next == (store.SumPass{}) {
		d.sumAt = time.Now().Add(sumEvery)
	}
	return nil
}

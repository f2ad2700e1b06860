package deltas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/fleetd/fleet"
	"groundswell/internal/ops"
	"groundswell/topics"
)

// Store keeps what is to be made; *store.Store is one.
type Store interface {
	PlanDeltas(ctx context.Context, again time.Duration) (rollout string, err error)
	ClaimDelta(ctx context.Context, holder string, lease time.Duration) (fleet.DeltaJob, bool, error)
	RenewDelta(ctx context.Context, job fleet.DeltaJob, lease time.Duration) error
	ReturnDelta(ctx context.Context, job fleet.DeltaJob) error
	FinishDelta(ctx context.Context, job fleet.DeltaJob, result fleet.DeltaResult) error
	Sleepy(ctx context.Context, artifact string) (bool, error)
	UnlistedDeltas(ctx context.Context, patience, sooner time.Duration) (topics.DeltaIndex, bool, error)
	PublishDeltas(ctx context.Context, x topics.DeltaIndex, pin topics.Document) error
}

// Config of a worker. Store, Blobs and Encoder are required.
type Config struct {
	Store   Store
	Blobs   Blobs
	Encoder Encoder
	// Coder is how deltas are coded where no rollout says so. Default fleet.CoderMixed.
	Coder string
	// Packed says how many bytes an artifact has when its blocks are fetched packed.
	// Nil, or false: not known, and a delta is held against the artifact as it is.
	Packed func(ctx context.Context, sha256 string) (int64, bool)
	// Jobs is how many deltas are made at once by this process. Default 1.
	Jobs int
	// Memory is how many bytes a job may take: what needs more in any case is not tried.
	// Default 2 GiB.
	Memory int64
	// Timeout ends a job that takes longer. Default 1 h.
	Timeout time.Duration
	// Dir is where a job keeps the two artifacts while it works. Default: where
	// temporary files belong.
	Dir string
	// Holder names this process.
	Holder string
	// Tick is how often a worker looks for work. Default 1 s.
	Tick time.Duration
	// Lease is how long after the death of a worker another takes its job. Default 1 min.
	Lease time.Duration
	// PublishEvery is how long a delta waits for others before devices hear of it.
	// Default 1 min.
	PublishEvery time.Duration
	Metrics      *ops.Registry
	Log          *slog.Logger // nil: silent
}

// planAgain is how often the devices of a rollout are counted.
const planAgain = 10 * time.Minute

// sooner is PublishEvery while the first wave of a rollout waits for deltas.
const sooner = 5 * time.Second

// ErrTimeout: a job took too long.
var ErrTimeout = errors.New("it took longer than it may")

// Worker makes deltas.
type Worker struct {
	cfg      Config
	finished ops.CounterVec // by state
}

// New makes a worker. It does no I/O.
func New(cfg Config) *Worker {
	orDefault(&cfg.Jobs, 1)
	orDefault(&cfg.Memory, 2<<30)
	orDefault(&cfg.Coder, fleet.CoderMixed)
	orDefault(&cfg.Tick, time.Second)
	orDefault(&cfg.Lease, time.Minute)
	orDefault(&cfg.Timeout, time.Hour)
	orDefault(&cfg.PublishEvery, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = ops.NewRegistry()
	}
	return &Worker{cfg, cfg.Metrics.NewCounterVec("groundswell_deltas_total", "Deltas that were made, or were tried to be: expanded ones look through compression.", "kind", "state")}
}

func orDefault[V comparable](v *V, otherwise V) {
	var zero V
	if *v == zero {
		*v = otherwise
	}
}

// Run works until ctx ends. What it was at then, another may begin at once.
func (w *Worker) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range w.cfg.Jobs {
		g.Go(func() error { return w.loop(ctx, w.work) })
	}
	g.Go(func() error { return w.loop(ctx, w.manage) })
	return g.Wait()
}

// loop repeats do: at once while there is more to do, else after a tick.
func (w *Worker) loop(ctx context.Context, do func(context.Context) (more bool, err error)) error {
	wait := rand.N(w.cfg.Tick)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		more, err := do(ctx)
		if wait = w.cfg.Tick; more && err == nil {
			wait = 0
		}
		if err != nil && ctx.Err() == nil {
			w.cfg.Log.Error("deltas: failed, tries again", "err", err)
		}
	}
}

// manage notes what is to be made, and publishes what was.
func (w *Worker) manage(ctx context.Context) (more bool, err error) {
	rollout, err := w.cfg.Store.PlanDeltas(ctx, planAgain)
	if err != nil {
		return false, err
	}
	x, ok, err := w.cfg.Store.UnlistedDeltas(ctx, w.cfg.PublishEvery, min(sooner, w.cfg.PublishEvery))
	if err != nil || !ok {
		return rollout != "", err
	}
	err = w.publish(ctx, x)
	if errors.Is(err, fleet.ErrConflict) {
		w.cfg.Log.Info("deltas not published, looks again", "target", x.Artifact, "err", err)
		return false, nil
	}
	return err == nil, err
}

// work makes one delta, if one is to be made.
func (w *Worker) work(ctx context.Context) (more bool, err error) {
	job, ok, err := w.cfg.Store.ClaimDelta(ctx, w.cfg.Holder, w.cfg.Lease)
	if err != nil || !ok {
		return false, err
	}
	log := w.cfg.Log.With("source", job.Source.SHA256, "target", job.Target.SHA256, "attempt", job.Attempt)
	bounded, cancel := context.WithTimeoutCause(ctx, w.cfg.Timeout, fmt.Errorf("%w: %v", ErrTimeout, w.cfg.Timeout))
	defer cancel()
	held, lost := context.WithCancelCause(bounded)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.hold(held, job, lost)
	}()
	result := w.try(held, job)
	fenced := errors.Is(context.Cause(held), fleet.ErrFenced)
	lost(nil)
	<-done
	switch {
	case fenced:
		log.Warn("delta lost to another: the lease was not renewed in time")
		return true, nil
	case ctx.Err() != nil && result.State == fleet.DeltaFailed:
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return false, w.cfg.Store.ReturnDelta(last, job)
	}
	kind, bytes := "plain", result.Delta.Length
	if result.Expanded != nil {
		bytes = result.Expanded.Length
	}
	if job.Through {
		kind = "expanded"
	}
	w.finished.With(kind, string(result.State)).Inc()
	if result.State == fleet.DeltaFailed {
		log.Warn("delta not made", "kind", kind, "err", result.Error)
	} else {
		log.Info("delta made", "kind", kind, "state", result.State, "coder", result.Coder, "bytes", bytes, "of", job.Target.Length, "seconds", result.Seconds, "peak", result.Peak)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second) // it is not to be made for nothing
	defer cancel()
	return true, w.cfg.Store.FinishDelta(last, job, result)
}

// hold renews the lease until ctx ends, which it ends when the lease is another's.
func (w *Worker) hold(ctx context.Context, job fleet.DeltaJob, lost context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.cfg.Lease / 4):
		}
		switch err := w.cfg.Store.RenewDelta(ctx, job, w.cfg.Lease); {
		case errors.Is(err, fleet.ErrFenced):
			lost(err)
		case err != nil && ctx.Err() == nil:
			w.cfg.Log.Warn("delta: lease not renewed, tries again", "err", err)
		}
	}
}

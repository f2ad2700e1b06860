package module

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/agent/disk"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/telemetry"
	"groundswell/topics"
)

// Config says where the module is and how patient to be. Zero durations mean the
// defaults.
type Config struct {
	// Scripts is the directory with the steps, Dir the module's own.
	Scripts, Dir string
	// Initial is the version that runs on a device that nobody has updated yet, when
	// the module does not say.
	Initial string
	// Tries is how many starts of the agent a trial has, with the one that begins it.
	// Default 3.
	Tries int
	// StepTime is how long a step may take. Default 30 min; verify and version have a
	// minute at most.
	StepTime time.Duration
	// Again is the pause before a step is asked again that was not ready, Patience for
	// how long it is asked. Default 1 min, 6 h.
	Again, Patience time.Duration
	// Interval is the time between two questions whether what is on trial runs well.
	// Default 5 s.
	Interval time.Duration
	Log      *slog.Logger
}

// Module is a component that a module updates. Run must be running for what is on trial
// to be looked after.
type Module struct {
	cfg    Config
	output *telemetry.Tail
	file   *journal.File
	ready  chan struct{} // closed when it is decided what is to run

	busy  atomic.Bool // something is being installed or activated
	steps sync.Mutex  // held, for long perhaps, while steps or files change something

	mu      sync.Mutex // guards what follows; held for a moment only
	state   state
	version string // what the module says that runs; "" nothing
	well    bool   // so verify has said
}

// Open reads what is there. It calls no step.
func Open(cfg Config) (*Module, error) {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&cfg.StepTime, 30 * time.Minute}, {&cfg.Again, time.Minute}, {&cfg.Patience, 6 * time.Hour}, {&cfg.Interval, 5 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	if cfg.Tries <= 0 {
		cfg.Tries = 3
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := check(cfg.Scripts); err != nil {
		return nil, err
	}
	m := &Module{cfg: cfg, output: telemetry.NewTail(32 << 10), ready: make(chan struct{})}
	if err := os.MkdirAll(m.work(), 0o700); err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	m.file = journal.NewFile(filepath.Join(cfg.Dir, "state"))
	m.load()
	if m.state.Current.Version == "" {
		m.state.Current.Version = cfg.Initial
	}
	return m, nil
}

func (m *Module) work() string     { return filepath.Join(m.cfg.Dir, "work") }
func (m *Module) artifact() string { return filepath.Join(m.cfg.Dir, "artifact") }

// Run deals with what the agent's last life has left, and looks after what is on trial,
// until ctx ends.
func (m *Module) Run(ctx context.Context) error {
	m.look(ctx)
	m.start(ctx)
	tick := time.NewTicker(m.cfg.Interval)
	defer tick.Stop()
	for asked := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !m.onTrial() && time.Since(asked) < askAgain {
			continue
		}
		// Not while something is being changed: nobody is to be disturbed at that.
		if m.steps.TryLock() {
			m.look(ctx)
			asked = time.Now()
			m.steps.Unlock()
		}
	}
}

// askAgain is the time between two questions which version runs, when nothing is on
// trial: somebody may have changed it by hand.
const askAgain = time.Minute

// start counts this start of the agent if something is on trial, and activates that
// again; or rolls it back. As soon as it is decided what is to run, the rest of the
// agent need not wait: the steps may take hours.
func (m *Module) start(ctx context.Context) {
	m.steps.Lock()
	defer m.steps.Unlock()
	decided := sync.OnceFunc(func() { close(m.ready) })
	defer decided()
	next := m.current()
	if next.Trial == nil || next.Trial.Back || next.Trial.Committing {
		return // Confirm goes on with a commit
	}
	if !next.Trial.Begun {
		// Killed before the first step. Weeks may have passed: whether it may still be
		// activated is for others to say.
		next.Trial = nil
		if err := m.set(next); err != nil {
			m.cfg.Log.Error("a trial that was not begun cannot be forgotten", "err", err)
		}
		return
	}
	t := *next.Trial
	t.Tries = max(t.Tries-1, 0)
	t.Over = t.Over || t.Tries == 0
	if err := m.set(next.with(t)); err != nil {
		// What cannot be counted is not tried again.
		m.cfg.Log.Error("a start on trial cannot be counted", "err", err)
		t.Over = true
	}
	decided()
	if !t.Over {
		err := m.activate(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		m.cfg.Log.Error("what is on trial cannot be activated again", "err", err)
	}
	if err := m.back(ctx); err != nil {
		m.cfg.Log.Error("what was on trial cannot be rolled back", "err", err)
	}
}

// current is the state as it is now.
func (m *Module) current() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// set is save with the lock.
func (m *Module) set(next state) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.save(next)
}

// activate brings Staged and makes it run. The caller holds steps.
func (m *Module) activate(ctx context.Context) error {
	m.mu.Lock()
	next := m.state
	m.well = false
	m.mu.Unlock()
	m.busy.Store(true)
	defer m.busy.Store(false)
	t := *next.Trial
	t.Begun = true
	next.Boot = slot.NewBootID()
	if err := m.set(next.with(t)); err != nil {
		return err
	}
	if err := slot.Verify(disk.OS, m.artifact(), next.Staged); err != nil {
		return err
	}
	for _, step := range []string{stepInstall, stepActivate} {
		if err := m.insist(ctx, step, next.Staged, next.Current); err != nil {
			return err
		}
	}
	t.Active = true
	if err := m.set(next.with(t)); err != nil {
		return err
	}
	m.look(ctx)
	return nil
}

// maxFailed is how many rollbacks, or commits, may fail before the component is left as it
// is: then only another release can mend it, and that must not be kept waiting.
const maxFailed = 5

// back rolls the trial back; one whose commit was begun is committed. The caller holds
// steps.
func (m *Module) back(ctx context.Context) error {
	next := m.current()
	if next.Trial == nil || next.Trial.Back {
		return nil
	}
	t := *next.Trial
	if t.Committing {
		return m.commit(ctx)
	}
	t.Over = true
	if t.Begun {
		// Written first: whoever is killed in the middle does not try it again.
		errSave := m.set(next.with(t))
		if err := m.insist(ctx, stepRollback, next.Staged, next.Current); err != nil {
			if t.Failed++; ctx.Err() != nil || t.Failed < maxFailed {
				return errors.Join(err, errSave, m.set(next.with(t)))
			}
			m.cfg.Log.Error("what was on trial cannot be rolled back, and is left as it is until another release comes", "err", err)
		}
	}
	t.Back = true
	next.Boot = slot.NewBootID()
	if err := m.set(next.with(t)); err != nil {
		return err
	}
	m.look(ctx)
	return nil
}

// commit keeps what is on trial. There is no way back once the step was called, so one that
// fails for good is given up, and the version stays: it is well, and other releases must not
// be kept waiting. The caller holds steps.
func (m *Module) commit(ctx context.Context) error {
	next := m.current()
	next.Before = nil
	if !m.has(stepCommit) {
		before := next.Current
		next.Before = &before
	} else {
		t := *next.Trial
		t.Committing = true // from here on, what rollback needs may be gone
		if err := m.set(next.with(t)); err != nil {
			return err
		}
		if err := m.insist(ctx, stepCommit, next.Staged, next.Current); err != nil {
			if ctx.Err() != nil {
				return err
			}
			if t.Uncommitted++; t.Uncommitted < maxFailed {
				return errors.Join(err, m.set(next.with(t)))
			}
			m.cfg.Log.Error("the module does not commit, and what is on trial stays without that", "err", err)
		}
	}
	next.Slot, next.Current, next.Staged, next.Trial = other(next.Slot), next.Staged, slot.Image{}, nil
	next.Current.Good = true
	return m.set(next)
}

// look asks the module what runs, and whether that is well.
func (m *Module) look(ctx context.Context) {
	s := m.current()
	version, well := "", true
	if m.has(stepVersion) {
		answer, err := m.call(ctx, stepVersion, s.Staged, s.Current)
		if err == nil && answer != "" {
			err = topics.CheckVersion("version", answer) // it gets into every heartbeat
		}
		if err != nil {
			well, answer = false, ""
			m.cfg.Log.Warn("the module does not say what runs", "err", err)
		}
		version = answer
	}
	if well && s.trialRuns() {
		if m.has(stepVerify) {
			if _, err := m.call(ctx, stepVerify, s.Staged, s.Current); err != nil {
				well = false
				m.cfg.Log.Warn("what is on trial is not well", "err", err)
			}
		}
		if version != "" && version != s.Staged.Version {
			well = false
			m.cfg.Log.Warn("something else runs than what is on trial", "runs", version, "trial", s.Staged.Version)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version, m.well = version, well
}

// trialRuns reports whether what was staged is what was made to run last.
func (s *state) trialRuns() bool { return s.Trial != nil && s.Trial.Begun && !s.Trial.Over }

func (m *Module) onTrial() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.trialRuns()
}

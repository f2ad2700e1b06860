package module

import (
	"context"
	"errors"
	"fmt"
	"os"

	"groundswell/agent/disk"
	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Ready waits until Run has dealt with what was left.
func (m *Module) Ready(ctx context.Context) error {
	select {
	case <-m.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Running is what runs.
func (m *Module) Running() slot.Running {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	r := slot.Running{Slot: s.Slot, Image: s.Current, BootID: s.Boot, Up: true}
	if s.trialRuns() {
		r.Slot, r.Trial, r.Up, r.Busy = other(s.Slot), true, m.well, m.busy.Load()
		if s.Trial.Active {
			r.Image = s.Staged
		}
	} else if m.version != "" && m.version != s.Current.Version {
		r.Image = slot.Image{Version: m.version} // by other hands
	}
	return r
}

// Output is the end of what the steps have printed.
func (m *Module) Output() string { return m.output.String() }

func (m *Module) downloads() slot.Downloads { return slot.Downloads{On: disk.OS, Dir: m.cfg.Dir} }

// Staging is the file that an artifact is downloaded into. Parts of others are
// removed.
func (m *Module) Staging(sha256 string) (path string, err error) {
	m.steps.Lock()
	defer m.steps.Unlock()
	path = m.downloads().Path(sha256)
	return path, m.downloads().Discard(path)
}

// Discard removes what was downloaded. What was staged stays, and is never activated
// by itself.
func (m *Module) Discard() error {
	m.steps.Lock()
	defer m.steps.Unlock()
	return m.downloads().Discard("")
}

// errOnTrial: the artifact is that of what runs on trial.
var errOnTrial = errors.New("something is on trial")

// Stage verifies what was downloaded, and keeps it for the steps. It may be repeated,
// and finds what was staged before. slot.ErrNotStaged means that the bytes are not
// there, or no longer whole.
func (m *Module) Stage(image slot.Image) (name string, err error) {
	m.steps.Lock()
	defer m.steps.Unlock()
	next := m.current()
	if next.Trial != nil && next.Trial.Begun && !next.Trial.Back {
		return "", fmt.Errorf("stage: %w", errOnTrial)
	}
	next.Trial, next.Before = nil, nil // rollback is about what is staged from now on
	name, image.Good = other(next.Slot), false
	if err := m.downloads().Check(image); err == nil {
		// Whoever is killed between this and the save finds a file that is not what was
		// staged before, and does not activate it.
		if err := errors.Join(os.Rename(m.downloads().Path(image.SHA256), m.artifact()), disk.OS.SyncDir(m.cfg.Dir)); err != nil {
			return "", fmt.Errorf("stage: %w", err)
		}
	} else if slot.Verify(disk.OS, m.artifact(), image) != nil {
		return "", err
	}
	next.Staged = image
	if err := m.set(next); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	return name, nil
}

// Trial says what became of the trial of a slot.
func (m *Module) Trial(name string) update.Trial {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	switch {
	case name == s.Slot && !s.trialRuns(), name == other(s.Slot) && s.trialRuns():
		return update.OnTrial
	case name != other(s.Slot) || s.Trial == nil || !s.Trial.Begun:
		return update.NotArmed
	}
	return update.FellBack
}

// Armed reports whether there is a trial that was not ended.
func (m *Module) Armed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Trial != nil
}

// Activate has the module bring what was staged, and make it run. An error means that
// it does not, and that what ran before was asked to run again.
func (m *Module) Activate(ctx context.Context) error {
	m.steps.Lock()
	defer m.steps.Unlock()
	if err := m.arm(); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	if err := m.activate(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // the agent ends, and goes on at its next start
		}
		return errors.Join(fmt.Errorf("activate: %w", err), m.back(ctx))
	}
	return nil
}

func (m *Module) arm() error {
	m.mu.Lock()
	next, version := m.state, m.version
	m.mu.Unlock()
	if next.Trial != nil && next.Trial.Begun {
		return errOnTrial
	}
	if next.Staged.Length == 0 {
		return slot.ErrEmpty
	}
	if err := slot.Verify(disk.OS, m.artifact(), next.Staged); err != nil {
		return err
	}
	if version != "" && version != next.Current.Version {
		next.Current = slot.Image{Version: version} // this is what rollback is to bring back
	}
	next.Trial = &trial{Tries: m.cfg.Tries}
	return m.set(next)
}

// Confirm has the module keep what is on trial. It may be repeated. slot.ErrGivenUp
// means that something else runs.
func (m *Module) Confirm(ctx context.Context, name string) error {
	m.steps.Lock()
	defer m.steps.Unlock()
	s := m.current()
	if name == s.Slot && s.Trial == nil && s.Current.Good {
		return nil // confirmed before
	}
	if name != other(s.Slot) || !s.trialRuns() {
		return fmt.Errorf("confirm slot %s: %w: %s", name, slot.ErrGivenUp, m.Running().Slot)
	}
	if err := m.commit(ctx); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	return nil
}

// Revert takes back a Confirm: it has the module make run again what ran before. It may
// be repeated. slot.ErrNoFallback means that the module cannot. Not after Stage.
func (m *Module) Revert(ctx context.Context, name string) error {
	if err := m.takeBack(name); err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	return m.FallBack(ctx)
}

// takeBack makes what was confirmed something on trial again, of which the trial is over.
func (m *Module) takeBack(name string) error {
	m.steps.Lock()
	defer m.steps.Unlock()
	next := m.current()
	if name != next.Slot || next.Trial != nil {
		return nil
	}
	if next.Before == nil {
		return fmt.Errorf("%w: the module has committed", slot.ErrNoFallback)
	}
	next.Slot, next.Staged, next.Current, next.Before = other(name), next.Current, *next.Before, nil
	next.Staged.Good = false
	return m.set(next.with(trial{Begun: true, Active: true, Over: true}))
}

// Final reports whether Confirm cannot be taken back: what rollback needs may be gone
// after the module's step commit.
func (m *Module) Final() bool { return m.has(stepCommit) }

// PutBack is FallBack for when nothing else could tell yet that there was a trial: Trial
// and Armed go on saying so, also after a restart, until FallBack.
func (m *Module) PutBack(ctx context.Context) error {
	m.steps.Lock()
	defer m.steps.Unlock()
	if err := m.back(ctx); err != nil {
		return fmt.Errorf("put back: %w", err)
	}
	return nil
}

// FallBack has the module make run again what ran before, and ends the trial. It may
// be repeated.
func (m *Module) FallBack(ctx context.Context) error {
	m.steps.Lock()
	defer m.steps.Unlock()
	if err := m.back(ctx); err != nil {
		return fmt.Errorf("fall back: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.Trial == nil {
		return nil
	}
	next := m.state
	next.Trial = nil
	if err := m.save(next); err != nil {
		return fmt.Errorf("fall back: %w", err)
	}
	return nil
}

package machine

import (
	"context"
	"errors"
	"fmt"

	"groundswell/agent/boot"
	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Trial says what became of the trial of a slot.
func (m *Machine) Trial(name string) update.Trial {
	m.busy.Lock()
	defer m.busy.Unlock()
	s, err := m.cfg.Chain.Load(context.Background())
	switch {
	case name != "" && name == m.cfg.Running:
		return update.OnTrial
	case err != nil || name == "" || s.Trial != name && s.Active != name:
		return update.NotArmed
	case s.Trial == name && !s.Over && s.Boot == m.boot():
		return update.NotArmed // or nearly: the machine was not booted since
	}
	return update.FellBack
}

// Armed reports whether there is a trial that was not ended.
func (m *Machine) Armed() bool {
	m.busy.Lock()
	defer m.busy.Unlock()
	s, err := m.cfg.Chain.Load(context.Background())
	return err == nil && s.Trial != ""
}

// Activate arms the fallback and boots the idle slot on trial. It returns only when
// that fails, or when ctx ends.
func (m *Machine) Activate(ctx context.Context) error {
	if err := m.arm(ctx); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	return m.restart(ctx)
}

func (m *Machine) arm(ctx context.Context) error {
	m.busy.Lock()
	defer m.busy.Unlock()
	s, err := m.cfg.Chain.Load(ctx)
	if err != nil {
		return err
	}
	if m.cfg.Running != s.Active {
		return ErrOnTrial
	}
	name := boot.Other(s.Active)
	image := m.held(name)
	if image.Length == 0 {
		return fmt.Errorf("slot %s: %w", name, slot.ErrEmpty)
	}
	if err := slot.VerifyBeginning(m.cfg.Disk, m.cfg.Partitions[name], image); err != nil {
		return fmt.Errorf("slot %s: %w", name, err)
	}
	return m.tell(ctx, s, boot.State{Active: s.Active, Trial: name, Tries: m.cfg.Tries, Boot: m.boot()})
}

// restart boots the machine, and waits for it.
func (m *Machine) restart(ctx context.Context) error {
	m.cfg.Log.Info("the machine restarts")
	return slot.Restart(ctx, m.cfg.Restart)
}

// Confirm makes the slot that is on trial the one that boots by itself. It may be
// repeated. slot.ErrGivenUp means that another one runs.
func (m *Machine) Confirm(ctx context.Context, name string) error {
	m.busy.Lock()
	defer m.busy.Unlock()
	if name != m.cfg.Running {
		return fmt.Errorf("confirm slot %s: %w: %s", name, slot.ErrGivenUp, m.cfg.Running)
	}
	if image := m.held(name); image.Length > 0 && !image.Good {
		image.Good = true
		if err := m.note(name, image); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	s, err := m.cfg.Chain.Load(ctx)
	if err == nil {
		err = m.tell(ctx, s, boot.State{Active: name})
	}
	if err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trial = false
	return nil
}

// FallBack ends the trial, and boots the active slot if the one on trial runs; then it
// returns only when that fails, or when ctx ends. It may be repeated. When the
// bootloader's environment cannot be written, the machine is booted nevertheless: the
// trial has only so many tries left. That it is over stays written until the active slot
// runs, because the journal may not have it: on a full disk, for instance.
func (m *Machine) FallBack(ctx context.Context) error {
	m.busy.Lock()
	s, err := m.cfg.Chain.Load(ctx)
	if err == nil {
		m.judge(s)
	}
	back := m.onTrial()
	switch {
	case err != nil:
	case back:
		over := boot.State{Active: boot.Other(m.cfg.Running), Trial: m.cfg.Running, Over: true, Boot: m.boot()}
		err = m.tell(ctx, s, over)
	default:
		err = m.tell(ctx, s, boot.State{Active: s.Active})
	}
	m.busy.Unlock()
	if err != nil {
		err = fmt.Errorf("fall back: %w", err)
		m.cfg.Log.Error("the end of a trial cannot be written", "err", err)
	}
	if !back {
		return err
	}
	return errors.Join(err, m.restart(ctx))
}

// Revert takes back a Confirm: it boots the other slot, from now on, and returns only
// when that fails or when ctx ends; or at once if that runs already. It may be repeated.
// slot.ErrNoFallback means that the other slot holds nothing that may boot. Not after
// Stage.
func (m *Machine) Revert(ctx context.Context, name string) error {
	if err := m.takeBack(ctx, name); err != nil {
		return fmt.Errorf("revert: %w", err)
	}
	return m.FallBack(ctx)
}

// takeBack makes a slot that was confirmed one on trial again, of which the trial is over.
func (m *Machine) takeBack(ctx context.Context, name string) error {
	m.busy.Lock()
	defer m.busy.Unlock()
	s, err := m.cfg.Chain.Load(ctx)
	if err != nil || s.Active != name {
		return err
	}
	before := boot.Other(name)
	m.mu.Lock()
	image, written := m.images[before]
	m.mu.Unlock()
	// What the device left the factory with was never written down.
	if written && !image.Good {
		return fmt.Errorf("%w: slot %s was never confirmed", slot.ErrNoFallback, before)
	}
	if err := slot.VerifyBeginning(m.cfg.Disk, m.cfg.Partitions[before], image); written && err != nil {
		return fmt.Errorf("%w: slot %s: %w", slot.ErrNoFallback, before, err)
	}
	if name != m.cfg.Running {
		return m.tell(ctx, s, boot.State{Active: before})
	}
	if err := m.tell(ctx, s, boot.State{Active: before, Trial: name, Over: true, Boot: m.boot()}); err != nil {
		return err
	}
	m.mu.Lock()
	m.trial = true
	m.mu.Unlock()
	if held := m.held(name); held.Good {
		held.Good = false
		return m.note(name, held)
	}
	return nil
}

// Final: Confirm can be taken back.
func (m *Machine) Final() bool { return false }

func (m *Machine) onTrial() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trial
}

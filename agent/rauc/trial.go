package rauc

import (
	"context"
	"errors"
	"fmt"

	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Trial says what became of the trial of a slot.
func (s *Slots) Trial(name string) update.Trial {
	r, _ := s.written()
	t := r.Trial
	switch {
	case name != "" && name == s.cfg.Running:
		return update.OnTrial
	case name == "" || t == nil && r.Active != name || t != nil && t.Slot != name:
		return update.NotArmed
	case t == nil || t.Over || t.Armed && t.Boot != s.cfg.BootID:
		return update.FellBack
	case t.Boot == s.cfg.BootID:
		return update.NotArmed // or nearly: the machine was not booted since
	}
	return s.unclear()
}

// unclear asks RAUC about a trial that it was to begin when the power went. If it has
// not, there is none. As long as it does not answer, the trial counts as one that was.
func (s *Slots) unclear() update.Trial {
	s.busy.Lock()
	defer s.busy.Unlock()
	sys, err := s.ask(context.Background())
	r, _ := s.written()
	if err != nil || r.Trial == nil {
		s.cfg.Log.Error("whether a trial was begun is not known", "err", err)
		return update.FellBack
	}
	t := *r.Trial
	if sys.idle.activated == t.Before && sys.primary != t.Slot {
		if err := s.save(r.without()); err != nil {
			s.cfg.Log.Error("that a trial was not begun cannot be written", "err", err)
		}
		return update.NotArmed
	}
	t.Armed = true
	if err := s.save(r.with(t)); err != nil {
		s.cfg.Log.Error("that a trial was begun cannot be written", "err", err)
	}
	return update.FellBack
}

// Armed reports whether there is a trial that was not ended.
func (s *Slots) Armed() bool {
	r, on := s.written()
	return on || r.Trial != nil
}

// Activate arms the fallback and boots the idle slot on trial. It returns only when that
// fails, or when ctx ends.
func (s *Slots) Activate(ctx context.Context) error {
	if err := s.arm(ctx); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	return s.restart(ctx)
}

func (s *Slots) restart(ctx context.Context) error {
	s.cfg.Log.Info("the machine restarts")
	return slot.Restart(ctx, s.cfg.Restart)
}

func (s *Slots) arm(ctx context.Context) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	if _, on := s.written(); on {
		return ErrOnTrial
	}
	sys, err := s.ask(ctx)
	if err != nil {
		return err
	}
	name := sys.idle.bootname
	if err := s.intact(sys, s.holds(name)); err != nil {
		return fmt.Errorf("slot %s: %w", name, err)
	}
	// What is fallen back to gets all its tries, before it is needed.
	if err := s.keep(ctx, sys); err != nil {
		return err
	}
	r, _ := s.written()
	r.Active = s.cfg.Running
	t := trial{Slot: name, Boot: s.cfg.BootID, Before: sys.idle.activated}
	if err := s.save(r.with(t)); err != nil {
		return err
	}
	if err := s.mark(ctx, "active", sys.idle.name); err != nil {
		return err
	}
	t.Armed = true
	return s.save(r.with(t))
}

// Confirm makes the slot that is on trial the one that boots by itself. It may be
// repeated. slot.ErrGivenUp means that another one runs.
func (s *Slots) Confirm(ctx context.Context, name string) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	if name != s.cfg.Running {
		return fmt.Errorf("confirm slot %s: %w: %s", name, slot.ErrGivenUp, s.cfg.Running)
	}
	sys, err := s.ask(ctx)
	if err == nil {
		err = s.prefer(ctx, sys)
	}
	if err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	r, _ := s.written()
	r.Active = name
	if held := r.Slots[name]; held.Length > 0 {
		held.Good = true
		r = r.holding(name, held)
	}
	if err := s.save(r.without()); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trial = false
	return nil
}

// FallBack ends the trial, and boots the other slot if the one on trial runs; then it
// returns only when that fails, or when ctx ends. It may be repeated. When RAUC cannot be
// told, the machine is booted nevertheless: the trial has only so many tries left.
func (s *Slots) FallBack(ctx context.Context) error {
	s.busy.Lock()
	r, back := s.written()
	var err error
	switch {
	case back:
		err = s.giveUp(ctx, r)
	case r.Trial != nil:
		var sys *system
		if sys, err = s.ask(ctx); err == nil {
			err = s.end(ctx, sys)
		}
	}
	s.busy.Unlock()
	if err != nil {
		err = fmt.Errorf("fall back: %w", err)
		s.cfg.Log.Error("the end of a trial cannot be told", "err", err)
	}
	if !back {
		return err
	}
	return errors.Join(err, s.restart(ctx))
}

// giveUp ends the trial of what runs. That it is over stays written until the other slot
// runs, because the journal may not have it: on a full disk, for instance.
func (s *Slots) giveUp(ctx context.Context, r record) error {
	t := trial{Slot: s.cfg.Running, Armed: true}
	if r.Trial != nil {
		t = *r.Trial
	}
	t.Over, t.OverIn = true, s.cfg.BootID
	err := s.save(r.with(t))
	sys, errAsk := s.ask(ctx)
	if errAsk != nil {
		return errors.Join(err, errAsk)
	}
	if errMark := errors.Join(s.mark(ctx, "active", sys.idle.name), s.mark(ctx, "bad", sys.running.name)); errMark != nil {
		return errors.Join(err, errMark)
	}
	t.Told = true
	return errors.Join(err, s.save(r.with(t)))
}

// end ends the trial of the slot that does not run.
func (s *Slots) end(ctx context.Context, sys *system) error {
	if err := s.unprefer(ctx, sys); err != nil {
		return err
	}
	r, _ := s.written()
	return s.save(r.without())
}

// unprefer makes the slot that runs the one that boots by itself, and the idle one none
// that does.
func (s *Slots) unprefer(ctx context.Context, sys *system) error {
	if err := s.mark(ctx, "active", sys.running.name); err != nil {
		return err
	}
	return s.mark(ctx, "bad", sys.idle.name)
}

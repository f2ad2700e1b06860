package group

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Activate puts the members on trial, one after the other. An error means that not all of
// them are, and that those that were have been put back. If a member restarts the
// machine, it returns only when that fails, or when ctx ends.
func (g *Group) Activate(ctx context.Context) error {
	g.steps.Lock()
	defer g.steps.Unlock()
	s := g.current()
	if len(s.Staged.Places) == 0 {
		return fmt.Errorf("activate: %w", slot.ErrEmpty)
	}
	all := g.running()
	if s.Trial != nil || slices.ContainsFunc(all, func(r slot.Running) bool { return r.Trial }) {
		return fmt.Errorf("activate: %w", errOnTrial)
	}
	g.busy.Store(true)
	defer g.busy.Store(false)
	from := g.places(all)
	if len(s.Current.Places) == 0 {
		s.Current.Places = from
	}
	if err := g.save("armed", s.with(trial{From: from})); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	err := g.activate(ctx, s.Staged.Places)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, g.back(ctx))
}

func (g *Group) activate(ctx context.Context, places []place) error {
	for _, p := range places {
		m := g.member(p.Member)
		if m == nil {
			return fmt.Errorf("activate: %s is not a member any more", p.Member)
		}
		if err := g.step("activate", m, func() error { return m.Slots.Activate(ctx) }); err != nil {
			return err
		}
		if m.Slots.Trial(p.Slot) != update.OnTrial {
			return fmt.Errorf("activate %s: it has fallen back", m.Name)
		}
	}
	return nil
}

// Confirm makes what is on trial what runs by itself, of all members. It may be repeated.
// slot.ErrGivenUp means that not all of them run it: they have to fall back.
func (g *Group) Confirm(ctx context.Context, name string) error {
	g.steps.Lock()
	defer g.steps.Unlock()
	s := g.current()
	if name == s.Slot && s.Trial == nil && s.Current.Image.Good && g.at(g.running(), s.Current.Places) {
		return nil // confirmed before
	}
	if name != other(s.Slot) || s.Trial == nil || s.Trial.Over || !g.at(g.running(), s.Staged.Places) {
		return fmt.Errorf("confirm slot %s: %w: %s", name, slot.ErrGivenUp, g.Running().Slot)
	}
	return g.confirm(ctx)
}

// confirm decides that Staged stays. The caller holds steps.
func (g *Group) confirm(ctx context.Context) error {
	s := g.current()
	t := *s.Trial
	if !t.Confirming {
		t.Confirming = true
		if err := g.save("decided", s.with(t)); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	for _, final := range []bool{false, true} {
		for _, p := range s.Staged.Places {
			m := g.member(p.Member)
			if m == nil || m.Slots.Final() != final {
				continue
			}
			if err := g.step("confirm", m, func() error { return m.Slots.Confirm(ctx, p.Slot) }); err != nil {
				return err
			}
		}
	}
	before := set{s.Current.Image, t.From}
	next := state{Slot: other(s.Slot), Current: s.Staged, Before: &before}
	next.Current.Image.Good = true
	if err := g.save("confirmed", next); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	return nil
}

// FallBack makes all members run again what they ran before, and ends the trial. It may
// be repeated. If it was decided that they stay, and all of them run, they do.
func (g *Group) FallBack(ctx context.Context) error {
	g.steps.Lock()
	defer g.steps.Unlock()
	if err := g.fallBack(ctx, true); err != nil {
		return fmt.Errorf("fall back: %w", err)
	}
	return nil
}

// PutBack is FallBack for when nothing else could tell yet that there was a trial: Trial
// and Armed go on saying so, also after a restart, until FallBack.
func (g *Group) PutBack(ctx context.Context) error {
	g.steps.Lock()
	defer g.steps.Unlock()
	if err := g.fallBack(ctx, false); err != nil {
		return fmt.Errorf("put back: %w", err)
	}
	return nil
}

func (g *Group) fallBack(ctx context.Context, end bool) error {
	s, all := g.current(), g.running()
	switch t := s.Trial; {
	case t == nil && s.Before != nil && !g.at(all, s.Current.Places):
		// Confirmed, and of some members that could not be booted: they run what they
		// ran before, and the others are to follow.
		s = state{Slot: other(s.Slot), Current: *s.Before, Staged: s.Current, Trial: &trial{From: s.Before.Places, Over: true}}
		s.Staged.Image.Good = false
		if err := g.save("over", s); err != nil {
			return err
		}
	case t == nil:
		return g.disarm(ctx)
	case t.Confirming && !t.Over && g.at(all, s.Staged.Places):
		return g.confirm(ctx)
	}
	if !s.Trial.Back {
		if err := g.back(ctx); err != nil {
			return err
		}
	}
	if !end {
		return nil
	}
	s = g.current()
	s.Trial = nil
	return g.save("ended", s)
}

// disarm ends trials of members that the group does not know of.
func (g *Group) disarm(ctx context.Context) error {
	for _, m := range slices.Backward(g.cfg.Members) {
		if m.Slots.Armed() {
			if err := g.step("fall back", &m, func() error { return m.Slots.FallBack(ctx) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// back decides that the trial is over and puts the members back. A disk that takes no
// writes keeps nobody from it, but is an error. The caller holds steps.
func (g *Group) back(ctx context.Context) error {
	s := g.current()
	t := *s.Trial
	t.Over = true
	var errs []error
	if !s.Trial.Over {
		errs = append(errs, g.save("over", s.with(t)))
	}
	for _, p := range slices.Backward(s.Staged.Places) {
		m := g.member(p.Member)
		if m == nil {
			continue
		}
		err := g.step("fall back", m, func() error { return undo(ctx, m.Slots, p.Slot) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, slot.ErrNoFallback) {
			g.cfg.Log.Error("a member cannot be put back, and stays what it is until another release comes", "member", m.Name, "err", err)
			continue
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.Back = true
	return g.save("back", s.with(t))
}

// undo makes a member run what it ran before: it ends the trial of a slot, or takes back
// its confirmation. One whose confirmation was interrupted takes both.
func undo(ctx context.Context, m Slots, name string) error {
	if m.Armed() {
		if err := m.FallBack(ctx); err != nil {
			return err
		}
	}
	if m.Running().Slot != name {
		return nil
	}
	return m.Revert(ctx, name)
}

package group

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"groundswell/agent/slot"
	"groundswell/agent/update"
)

// Running is what runs: the version that all members belong to, if they do. The boot id
// changes with that of any member; the address is that of the first that has one.
func (g *Group) Running() slot.Running {
	s, all := g.current(), g.running()
	r := slot.Running{Slot: s.Slot, Up: true, Busy: g.busy.Load()}
	ids := sha256.New()
	for i, m := range all {
		fmt.Fprintf(ids, "%s %s\n", g.cfg.Members[i].Name, m.BootID)
		r.Up, r.Busy = r.Up && m.Up, r.Busy || m.Busy
		if r.Addr == "" {
			r.Addr = m.Addr
		}
	}
	r.BootID = hex.EncodeToString(ids.Sum(nil)[:8])
	switch t := s.Trial; {
	case t != nil && g.at(all, s.Staged.Places):
		r.Slot, r.Trial = other(s.Slot), true
		if r.Image = s.Current.Image; g.are(all, s.Staged.Places) {
			r.Image = s.Staged.Image // all of it is installed
		}
	case t != nil && g.at(all, t.From), t == nil && g.are(all, s.Current.Places):
		r.Image = s.Current.Image
	}
	return r
}

// maxOutput bounds what Output returns, in bytes.
const maxOutput = 32 << 10

// Output is the end of what each member has printed.
func (g *Group) Output() string {
	var out strings.Builder
	most := maxOutput / len(g.cfg.Members)
	for _, m := range g.cfg.Members {
		text := m.Slots.Output()
		if text == "" {
			continue
		}
		fmt.Fprintf(&out, "%s:\n%s\n", m.Name, text[max(0, len(text)-most):])
	}
	return out.String()
}

// Trial says what became of the trial of a slot.
func (g *Group) Trial(name string) update.Trial {
	s, all := g.current(), g.running()
	switch t := s.Trial; {
	case name == s.Slot && t == nil:
		if g.at(all, s.Current.Places) {
			return update.OnTrial
		}
		return update.FellBack // of some members the confirmed version could not be booted
	case name == s.Slot && g.at(all, t.From):
		return update.OnTrial
	case name != other(s.Slot) || t == nil:
		return update.NotArmed
	case t.Over:
		return update.FellBack
	case t.Confirming:
		if g.at(all, s.Staged.Places) {
			return update.OnTrial
		}
		return update.FellBack
	}
	trial := update.OnTrial
	for _, p := range s.Staged.Places {
		m := g.member(p.Member)
		if m == nil {
			return update.FellBack // it is not a member any more
		}
		switch m.Slots.Trial(p.Slot) {
		case update.FellBack:
			return update.FellBack
		case update.NotArmed:
			trial = update.NotArmed // killed before its activation
		}
	}
	return trial
}

// Armed reports whether there is a trial that was not ended, of the group or of any
// member.
func (g *Group) Armed() bool {
	if g.current().Trial != nil {
		return true
	}
	for _, m := range g.cfg.Members {
		if m.Slots.Armed() {
			return true
		}
	}
	return false
}

// Staging is the file that a pack is downloaded into. Parts of others are removed.
func (g *Group) Staging(sha256 string) (path string, err error) {
	g.steps.Lock()
	defer g.steps.Unlock()
	path = g.downloads().Path(sha256)
	return path, g.downloads().Discard(path)
}

// Discard removes what was downloaded. What was staged stays, and never runs without a
// trial.
func (g *Group) Discard() error {
	g.steps.Lock()
	defer g.steps.Unlock()
	for _, m := range g.cfg.Members {
		if err := m.Slots.Discard(); err != nil {
			return fmt.Errorf("discard %s: %w", m.Name, err)
		}
	}
	return g.downloads().Discard("")
}

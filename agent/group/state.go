package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"groundswell/agent/journal"
	"groundswell/agent/slot"
)

// state is what survives a power cut.
type state struct {
	// Slot is the group's name for where Current is: "a" or "b". The names tell versions
	// apart, there is no place behind them.
	Slot    string `json:"slot"`
	Current set    `json:"current"`
	// Staged is in the members' idle slots; no places: nothing is.
	Staged set    `json:"staged,omitzero"`
	Trial  *trial `json:"trial,omitempty"` // of Staged; nil: there is none
	// Before is what Confirm has replaced by Current, until something is staged.
	Before *set `json:"before,omitempty"`
}

// set is a version of the group.
type set struct {
	Image  slot.Image `json:"image,omitzero"`
	Places []place    `json:"places,omitempty"` // in order; none: as the device left the factory
}

// place is where a member's part of a set is.
type place struct {
	Member string     `json:"member"`
	Slot   string     `json:"slot"`
	Image  slot.Image `json:"image"`
}

// trial is one attempt to run Staged.
type trial struct {
	From []place `json:"from"` // what the members ran before
	// Confirming: it is decided that Staged stays. It does unless a member has fallen
	// back by itself before it was confirmed.
	Confirming bool `json:"confirming,omitempty"`
	Over       bool `json:"over,omitempty"` // it is decided that all go back
	Back       bool `json:"back,omitempty"` // they are
}

// with is s with that trial.
func (s state) with(t trial) state {
	s.Trial = &t
	return s
}

func other(name string) string {
	if name == "a" {
		return "b"
	}
	return "a"
}

// load reads the state. When it cannot be read, nobody knows which version runs.
func (g *Group) load() {
	body, older, err := g.file.Load()
	if err == nil {
		err = json.Unmarshal(body, &g.state)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		g.state.Current.Image.Version = g.cfg.Version
	case err != nil:
		g.state = state{}
		g.cfg.Log.Error("what the group runs is not known any more", "err", err)
	case older:
		g.cfg.Log.Warn("the newest state of the group is damaged, the one before it is used")
	}
	if g.state.Slot != "b" {
		g.state.Slot = "a"
	}
}

// Recorded is the group's slot, and what was confirmed last, as written down in a group's
// directory. os.ErrNotExist: nothing was.
func Recorded(dir string) (name string, image slot.Image, err error) {
	body, _, err := journal.NewFile(filepath.Join(dir, fileName)).Load()
	var s state
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s.Slot, s.Current.Image, err
}

// fileName is the file of the state.
const fileName = "state"

// current is the state as it is now.
func (g *Group) current() state {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// save writes next, and takes it over when that went well. The caller holds steps.
func (g *Group) save(what string, next state) error {
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	g.cfg.At("before " + what)
	if err := g.file.Save(body); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	g.mu.Lock()
	g.state = next
	g.mu.Unlock()
	g.cfg.At("after " + what)
	return nil
}

// running is what runs of each member, in order.
func (g *Group) running() []slot.Running {
	all := make([]slot.Running, len(g.cfg.Members))
	for i, m := range g.cfg.Members {
		all[i] = m.Slots.Running()
	}
	return all
}

// places is where the members are now.
func (g *Group) places(all []slot.Running) []place {
	list := make([]place, len(all))
	for i, r := range all {
		list[i] = place{g.cfg.Members[i].Name, r.Slot, r.Image}
	}
	return list
}

// at reports whether all members run from those places. On a device of which the places
// were never written down, they do while nothing is on trial.
func (g *Group) at(all []slot.Running, places []place) bool {
	if len(places) == 0 {
		return !slices.ContainsFunc(all, func(r slot.Running) bool { return r.Trial })
	}
	for i, r := range all {
		if p := find(places, g.cfg.Members[i].Name); p == nil || p.Slot != r.Slot {
			return false
		}
	}
	return true
}

// are reports whether, besides, they are what was put there, and not something that
// somebody has put there by hand.
func (g *Group) are(all []slot.Running, places []place) bool {
	for i, r := range all {
		if p := find(places, g.cfg.Members[i].Name); p != nil && p.Image.Version != r.Image.Version {
			return false
		}
	}
	return g.at(all, places)
}

func find(places []place, member string) *place {
	i := slices.IndexFunc(places, func(p place) bool { return p.Member == member })
	if i < 0 {
		return nil
	}
	return &places[i]
}

package module

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"groundswell/agent/slot"
)

// state is what survives a power cut.
type state struct {
	// Slot holds Current, which runs when nothing is on trial: "a" or "b". The names
	// tell versions apart, there is no place behind them.
	Slot    string     `json:"slot"`
	Current slot.Image `json:"current"`
	// Staged is in the artifact file; zero: nothing is.
	Staged slot.Image `json:"staged,omitzero"`
	// Trial is of Staged; nil: there is none. What it points to never changes.
	Trial *trial `json:"trial,omitempty"`
	// Before is what Current has replaced, as long as rollback can bring that back; nil:
	// it cannot.
	Before *slot.Image `json:"before,omitempty"`
	Boot   string      `json:"boot"` // id of the last activation or rollback
}

// trial is one attempt to run Staged.
type trial struct {
	Tries      int  `json:"tries"`                // starts that are left
	Begun      bool `json:"begun,omitempty"`      // a step was called
	Active     bool `json:"active,omitempty"`     // activate has succeeded once
	Committing bool `json:"committing,omitempty"` // commit was called: there is no way back
	Over       bool `json:"over,omitempty"`       // it is to be rolled back, or was
	Back       bool `json:"back,omitempty"`       // it was rolled back, or that was given up
	Failed     int  `json:"failed,omitempty"`     // rollbacks that failed
	// Uncommitted are commits that failed.
	Uncommitted int `json:"uncommitted,omitempty"`
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

// load reads the state; what cannot be read is as on a new device, of which the module
// itself has to say what runs.
func (m *Module) load() {
	m.state = state{Slot: "a", Boot: "none"}
	body, _, err := m.file.Load()
	if err == nil {
		err = json.Unmarshal(body, &m.state)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.cfg.Log.Error("what runs is not known any more", "err", err)
	}
	if m.state.Slot != "b" {
		m.state.Slot = "a"
	}
}

// save writes next, and takes it over when that went well. The caller holds mu.
func (m *Module) save(next state) error {
	body, err := json.Marshal(next)
	if err == nil {
		err = m.file.Save(body)
	}
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	m.state = next
	return nil
}

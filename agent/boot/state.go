package boot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// MaxTries is how many boots a trial may have: the scripts count by hand.
const MaxTries = 5

// ErrEnvironment: the bootloader's environment cannot be read or makes no sense.
var ErrEnvironment = errors.New("boot environment")

// State is what a bootloader is told.
type State struct {
	// Active is the slot that boots by itself, "a" or "b".
	Active string
	// Trial is the other slot while it is on trial, or has been and nobody has said
	// how that ended; else empty.
	Trial string
	// Tries is how many boots the trial has left.
	Tries int
}

// The names of the variables.
const (
	VarActive = "groundswell_active"
	VarTrial  = "groundswell_trial"
	VarTries  = "groundswell_tries"
)

// Chain is a bootloader's memory.
type Chain interface {
	// Load reads it. A bootloader that was never told anything boots slot a.
	Load(ctx context.Context) (State, error)
	// Store replaces it, durably, all or nothing.
	Store(ctx context.Context, s State) error
}

// Validate is nil when a bootloader could be told s.
func (s State) Validate() error {
	switch {
	case s.Active != "a" && s.Active != "b":
		return fmt.Errorf("%w: active slot %q is neither a nor b", ErrEnvironment, s.Active)
	case s.Trial == "" && s.Tries != 0:
		return fmt.Errorf("%w: %d tries without a trial", ErrEnvironment, s.Tries)
	case s.Trial != "" && s.Trial != Other(s.Active):
		return fmt.Errorf("%w: slot %q cannot be on trial beside %s", ErrEnvironment, s.Trial, s.Active)
	case s.Tries < 0 || s.Tries > MaxTries:
		return fmt.Errorf("%w: %d tries, at most %d", ErrEnvironment, s.Tries, MaxTries)
	}
	return nil
}

// Other is the slot beside a slot.
func Other(slot string) string {
	if slot == "a" {
		return "b"
	}
	return "a"
}

// variables are s as a bootloader stores it.
func (s State) variables() map[string]string {
	return map[string]string{VarActive: s.Active, VarTrial: s.Trial, VarTries: strconv.Itoa(s.Tries)}
}

// stateOf reads what variables did, as the scripts do: what makes no sense is as if it
// were not there.
func stateOf(variables map[string]string) State {
	s := State{Active: "a"}
	if variables[VarActive] == "b" {
		s.Active = "b"
	}
	if variables[VarTrial] == Other(s.Active) {
		s.Trial = variables[VarTrial]
		if n, err := strconv.Atoi(variables[VarTries]); err == nil && n > 0 && n <= MaxTries && strconv.Itoa(n) == variables[VarTries] {
			s.Tries = n
		}
	}
	return s
}

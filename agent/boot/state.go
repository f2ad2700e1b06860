package boot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
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
	// Over: the trial was ended. The bootloader boots the active slot, as when no tries
	// are left; whoever runs then knows why.
	Over bool
	// Boot says in which boot of the machine the rest was written: 8 hexadecimal digits
	// that differ from boot to boot, or empty. No bootloader reads it.
	Boot string
}

// The names of the variables.
const (
	VarActive = "groundswell_active"
	VarTrial  = "groundswell_trial"
	VarTries  = "groundswell_tries"
	VarBoot   = "groundswell_boot"
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
	case s.Over && (s.Trial == "" || s.Tries != 0):
		return fmt.Errorf("%w: a trial that is over has no tries", ErrEnvironment)
	case s.Boot != "" && !bootMark.MatchString(s.Boot):
		return fmt.Errorf("%w: boot %q is not 8 hexadecimal digits", ErrEnvironment, s.Boot)
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

var bootMark = regexp.MustCompile("^[0-9a-f]{8}$")

// over stands in the place of the tries that are left.
const over = "-"

// variable is one of those that a State is stored as.
type variable struct{ name, value string }

// variables are s as a bootloader stores it. Each has the same length always.
func (s State) variables() []variable {
	list := []variable{{VarActive, s.Active}, {VarTrial, s.Trial}, {VarTries, strconv.Itoa(s.Tries)}, {VarBoot, s.Boot}}
	if s.Trial == "" {
		list[1].value = "-"
	}
	if s.Over {
		list[2].value = over
	}
	if s.Boot == "" {
		list[3].value = "--------"
	}
	return list
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
		s.Over = variables[VarTries] == over
	}
	if bootMark.MatchString(variables[VarBoot]) {
		s.Boot = variables[VarBoot]
	}
	return s
}

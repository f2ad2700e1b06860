package fleet

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"groundswell/topics"
)

// State is where a rollout stands.
type State string

// States of a rollout.
const (
	Draft     State = "draft"     // may still be changed; devices know nothing of it
	Scheduled State = "scheduled" // starts by itself at StartAt
	Running   State = "running"
	Paused    State = "paused" // nobody starts, nobody activates
	Completed State = "completed"
	Cancelled State = "cancelled" // its entry is gone from the manifests
	Reverting State = "reverting" // its entry is gone; the rollout that reverts it runs
	Reverted  State = "reverted"
)

// next lists every legal move; anything else is ErrTransition.
var next = map[State][]State{
	Draft:     {Scheduled, Running, Cancelled},
	Scheduled: {Running, Cancelled},
	Running:   {Paused, Completed, Cancelled, Reverting},
	Paused:    {Running, Cancelled, Reverting},
	Completed: {Paused, Reverting, Cancelled}, // paused, cancelled: those who were offline need not come after
	Cancelled: {Reverting},                    // devices may run it nevertheless
	Reverting: {Reverted, Cancelled},          // cancelled: its revert was
	Reverted:  {},
}

// States lists every state in the order of a rollout's life.
func States() []State {
	return []State{Draft, Scheduled, Running, Paused, Completed, Cancelled, Reverting, Reverted}
}

// CheckTransition returns ErrTransition unless a rollout may go from one state
// to the other.
func CheckTransition(from, to State) error {
	if slices.Contains(next[from], to) {
		return nil
	}
	return fmt.Errorf("%w: from %s to %s", ErrTransition, from, to)
}

// Before lists the states from which a rollout may go to state to.
func Before(to State) []State {
	var from []State
	for _, s := range States() {
		if slices.Contains(next[s], to) {
			from = append(from, s)
		}
	}
	return from
}

// Active reports whether the rollout may still move devices forward, so that
// its members are pinned to it.
func (s State) Active() bool { return s == Running || s == Paused }

// InManifest reports whether devices see an entry of the rollout.
func (s State) InManifest() bool { return s == Running || s == Paused || s == Completed }

// CheckState returns a FieldError unless s is absent or known.
func CheckState(pointer string, s State) error {
	if s == "" || slices.Contains(States(), s) {
		return nil
	}
	return Invalid(pointer, "%q is not a state of a rollout", string(s))
}

// Rollout brings a release to cohorts.
type Rollout struct {
	ID       string
	Revision int64 // grows with each change, also with each wave that opens
	Kind     topics.EntryKind
	State    State
	RolloutSpec
	Component string
	Sequence  int64 // order of creation
	Offset    int64 // [0, topics.Buckets)
	Policy    Policy
	Waves     []Wave
	// Reason is why it is in its state, in the words of the operator, or of
	// the driver (the breaker that tripped, the end that was reached).
	Reason     string
	CreatedBy  string
	CreatedAt  time.Time
	StartedAt  time.Time
	PausedAt   time.Time // of the newest pause
	ResumedAt  time.Time // of the newest resume; breakers look no further back
	FinishedAt time.Time
	RevertOf   string // the rollout that this one reverts
	// Stones are the devices that cannot take the release yet, and Warnings what is to
	// know about that, in words. Only filled in where one rollout is made, changed or
	// looked at.
	Stones   []Stone
	Warnings []string
	// Deltas are the versions that its devices run, the most common first, with the
	// deltas from there. Only filled in where one rollout of a release with a block
	// index is looked at.
	Deltas []DeltaSource
	// Transfers is where the bytes came from, by region. Only filled in where one
	// rollout is looked at.
	Transfers []TransferSum
}

// RolloutSpec is what operators say about a rollout.
type RolloutSpec struct {
	Release string // name
	Version string
	Cohorts []string
	// CanaryCohort comes first, all of it at once. Absent: none.
	CanaryCohort string
	// From is the constraint on the version that a device runs. Absent: any
	// lower one.
	From     string
	Priority int64
	// StartAt zero: starts when told to.
	StartAt time.Time
	Note    string
	// PolicySpec is only read on creation and change; Rollout.Policy is what holds.
	PolicySpec PolicySpec
}

// MaxPriority is the highest priority that operators may give; what lies above
// is for reverts.
const MaxPriority = 1_000_000

// Validate returns a FieldError. That release and cohorts exist is not its
// matter.
func (s RolloutSpec) Validate() error {
	if err := checkID("/release/name", s.Release); err != nil {
		return err
	}
	if err := pointed("/release/version", topics.CheckVersion("", s.Version)); err != nil {
		return err
	}
	if len(s.Cohorts) == 0 && s.CanaryCohort == "" {
		return Invalid("/cohorts", "names no cohort")
	}
	if len(s.Cohorts) == 0 {
		return Invalid("/cohorts", "names no cohort beside the canary cohort")
	}
	if len(s.Cohorts) > 1000 {
		return Invalid("/cohorts", "names more than 1000 cohorts")
	}
	for i, c := range s.Cohorts {
		if err := checkID(index("/cohorts", i), c); err != nil {
			return err
		}
		if slices.Contains(s.Cohorts[:i], c) {
			return Invalid(index("/cohorts", i), "%q stands twice", c)
		}
		if c == s.CanaryCohort {
			return Invalid("/canary_cohort", "%q is among the cohorts too", c)
		}
	}
	if s.Priority < -MaxPriority || s.Priority > MaxPriority {
		return Invalid("/priority", "must be from %d to %d", -MaxPriority, MaxPriority)
	}
	return firstError(
		CheckText("/note", s.Note),
		optionalID("/canary_cohort", s.CanaryCohort),
		pointed("/from", topics.CheckConstraint("", s.From)),
	)
}

// AllCohorts lists the cohorts in whose manifests the rollout stands, the
// canary cohort first.
func (s RolloutSpec) AllCohorts() []string {
	if s.CanaryCohort == "" {
		return slices.Clone(s.Cohorts)
	}
	return append([]string{s.CanaryCohort}, s.Cohorts...)
}

// NewRolloutID makes "r-" and 12 lower-case base32 characters.
func NewRolloutID() string { return "r-" + randomText() }

// NewCommandID makes "c-" and 12 lower-case base32 characters.
func NewCommandID() string { return "c-" + randomText() }

func randomText() string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // crypto/rand never fails: it ends the program
	return strings.ToLower(base32.StdEncoding.EncodeToString(random[:]))[:12]
}

// NewOffset draws a rollout's offset.
func NewOffset() int64 {
	var random [8]byte
	_, _ = rand.Read(random[:]) // as above
	return int64(binary.BigEndian.Uint64(random[:]) % topics.Buckets)
}

// Eligible reports whether a device that runs version takes part in a rollout:
// it meets the constraint, and an update is higher, a revert another version.
func Eligible(kind topics.EntryKind, from, target, version string) (bool, error) {
	ok, err := topics.Satisfies(version, from)
	if err != nil || !ok {
		return false, err
	}
	order, err := topics.CompareVersions(version, target)
	if err != nil {
		return false, err
	}
	if kind == topics.EntryRevert {
		return order != 0, nil
	}
	return order < 0, nil
}

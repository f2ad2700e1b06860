package fleet

import (
	"fmt"
	"strings"
	"time"

	"groundswell/topics"
)

// DeltaState is where a delta stands.
type DeltaState string

// States of a delta.
const (
	DeltaNone    DeltaState = ""        // nobody has asked for it, or it cannot be made
	DeltaPending DeltaState = "pending" // to be made, perhaps once more
	DeltaRunning DeltaState = "running"
	DeltaReady   DeltaState = "ready"
	DeltaUseless DeltaState = "useless" // not worth its bytes
	DeltaFailed  DeltaState = "failed"  // given up
)

// How deltas are coded.
const (
	CoderMixed = "mixed" // smaller
	CoderZstd  = "zstd"  // devices decode it in a tenth of the time
	// CoderAuto is zstd from a version that mostly devices run which sleep between their
	// check-ins, on battery that is, and mixed from the others.
	CoderAuto = "auto"
	// CoderPlain before one of them: so, and no delta is made that looks through compression.
	CoderPlain = "plain-"
)

// CheckCoder returns a FieldError at pointer unless coder is empty or one of those.
func CheckCoder(pointer, coder string) error {
	switch strings.TrimPrefix(coder, CoderPlain) {
	case CoderMixed, CoderZstd, CoderAuto:
		return nil
	}
	if coder == "" {
		return nil
	}
	return Invalid(pointer, "%q is not one of mixed, zstd, auto, plain-mixed, plain-zstd, plain-auto", coder)
}

// DeltaJob is a delta that is to be made, and leased to who makes it.
type DeltaJob struct {
	Target Artifact        // what it makes
	Source Artifact        // what it is made from
	Index  topics.Document // block index of the target
	// Coder is what the newest rollout's policy says that moves devices there; empty:
	// none says anything.
	Coder string
	// Holder is who has leased it; Attempt counts from 1.
	Holder  string
	Attempt int
	// Through: the plain delta is there, and one that looks through compression is to be
	// made. Plain is the plain one, and Took how many seconds it took; Coder is how it is
	// coded.
	Through bool
	Plain   topics.Document
	Took    float64
}

// DeltaResult is what became of a DeltaJob.
type DeltaResult struct {
	State DeltaState      // ready, useless or failed
	Delta topics.Document // the plain one, of a ready or useless one
	// Expanded looks through compression; nil: that is not worth it. With PlainUseless
	// only this one is worth its bytes, of a ready one.
	Expanded     *topics.Document
	PlainUseless bool
	// Later: one that looks through compression is still to be made, or tried once more.
	Later bool

	Coder   string
	Seconds float64 // that it took
	Peak    int64   // bytes of memory that it took; 0: not known
	Error   string  // why it failed
	// Again lets a failed one be tried again, unless it was tried too often.
	Again bool
}

// DeltaAttempts is how often a delta is tried that fails or takes its maker with it.
const DeltaAttempts = 3

// DeltaSource is devices of a rollout that run one version, and the delta that brings
// them its release.
type DeltaSource struct {
	From    string // version that they run
	Devices int64  // eligible ones, see package fleet
	Canary  int64  // those of them in the canary cohort
	// Artifact is what they run. Absent: no release of that name has that version.
	Artifact string
	// Index is the digest of the block index of that. Absent: it has none.
	Index string
	State DeltaState
	Delta topics.Document // of a ready or useless one: the smaller of those that are listed, or will be
	// Plain is how many bytes the plain one has, where Delta looks through compression; 0: it
	// does not.
	Plain int64
	// Listed: it stands in the delta index that manifests pin.
	Listed bool
	Error  string // of the newest attempt
}

// DeltaWait is what a rollout's first wave waits for.
type DeltaWait struct {
	Missing, Of int       // deltas of popular sources
	Until       time.Time // then the wave opens without
}

// popular is the share of a rollout's devices, in per cent, that must run a version for
// the first wave to wait for the delta from it.
const popular = 1

// WaitsForDeltas says what the first wave of a rollout waits for that started; nil: for
// nothing. sources are those of its devices, the most common first, of which at most most
// have a delta made. Who has failed is not waited for.
func (r Rollout) WaitsForDeltas(sources []DeltaSource, most int, now time.Time) *DeltaWait {
	patience := min(r.Policy.DeltaWait, r.Policy.Deadline/2)
	wait := &DeltaWait{Until: r.StartedAt.Add(time.Duration(patience))}
	if patience == 0 || !now.Before(wait.Until) {
		return nil
	}
	total := int64(0)
	for _, s := range sources {
		total += s.Devices
	}
	for _, s := range Wanted(sources, most) {
		if s.Devices*100 < total*popular {
			continue
		}
		wait.Of++
		if s.State != DeltaUseless && s.State != DeltaFailed && !s.Listed {
			wait.Missing++
		}
	}
	if wait.Missing == 0 {
		return nil
	}
	return wait
}

// Wanted are the first sources, at most most, from which a delta can be made.
func Wanted(sources []DeltaSource, most int) (wanted []DeltaSource) {
	for _, s := range sources {
		if s.Artifact != "" && len(wanted) < most {
			wanted = append(wanted, s)
		}
	}
	return wanted
}

// String says it to people.
func (w DeltaWait) String() string {
	return fmt.Sprintf("waiting for deltas: %d of %d missing, until %s", w.Missing, w.Of, w.Until.UTC().Format(time.RFC3339))
}

package fleet

import (
	"fmt"
	"time"
)

// SliceFloor is the least number of outcomes on which a slice trips the
// breaker: one device of a rare model must not stop a large rollout. While the
// open waves have fewer members, all of those are enough.
const SliceFloor = 5

// Tally counts outcomes of one slice.
type Tally struct {
	Slice string // "" for the whole rollout, else "model", "hardware", "region" or "from"
	Value string // of the slice
	// Sample is the number of outcomes, Failures how many of them were failed,
	// rolled_back or silent.
	Sample, Failures int64
	// Members is how many devices of the slice are in the waves opened so far,
	// Reached how many devices of all slices are. Both are exact only as far
	// as the minimum sample goes.
	Members, Reached int64
	// FirstReason is that of the earliest failure. Absent: none was given.
	FirstReason string
}

// Breaker decides whether the rollout must stop, and says why: more failures
// than the percentage allows, given a large enough sample, or as many as the
// absolute limit, in the whole rollout or in one of its slices.
//
// A rollout with few outcomes at a time would never fill the window's sample:
// where the window holds less than that, the newest outcomes since the start or
// the newest resume are judged, up to the minimum sample. The absolute limit
// speaks of the window alone.
func Breaker(p BreakerPolicy, window, newest []Tally) (reason string, tripped bool) {
	full := map[[2]string]bool{}
	for _, t := range window {
		full[[2]string{t.Slice, t.Value}] = t.Sample >= p.MinSample
		if reason, tripped = t.trips(p, p.Absolute, fmt.Sprintf(" in %v", time.Duration(p.Window))); tripped {
			return reason, true
		}
	}
	for _, t := range newest {
		if full[[2]string{t.Slice, t.Value}] {
			continue
		}
		if reason, tripped = t.trips(p, 0, " of the newest outcomes"); tripped {
			return reason, true
		}
	}
	return "", false
}

// need is the least sample on which the failure share of t counts.
func (t Tally) need(p BreakerPolicy) int64 {
	need := max(1, min(p.MinSample, t.Members))
	if t.Slice != "" {
		need = max(need, min(SliceFloor, t.Reached))
	}
	return need
}

// trips judges one tally; absolute 0 is no such limit.
func (t Tally) trips(p BreakerPolicy, absolute int64, where string) (reason string, tripped bool) {
	if t.Failures == 0 {
		return "", false
	}
	share := t.Sample >= t.need(p) && above(t.Failures, t.Sample, p.Percent)
	if !share && !(absolute > 0 && t.Failures >= absolute) {
		return "", false
	}
	limit := number(p.Percent) + " %"
	if !share {
		limit = fmt.Sprintf("%d devices", absolute)
	}
	reason = fmt.Sprintf("breaker: %d of %d devices failed (%s %%, limit %s%s)", t.Failures, t.Sample,
		number(float64(t.Failures)*100/float64(t.Sample)), limit, where)
	if t.Slice != "" {
		reason += fmt.Sprintf(", slice %s=%s", t.Slice, t.Value)
	}
	if t.FirstReason != "" {
		reason += "; first reason " + t.FirstReason
	}
	return reason, true
}

// Move is what the driver does next with a running rollout.
type Move string

// Moves.
const (
	Stay     Move = "stay"
	Halt     Move = "halt"     // the breaker tripped, or the end is not good enough: pause
	Sampled  Move = "sampled"  // remember that the gate has its sample
	Open     Move = "open"     // the open wave passed: open the next
	Widen    Move = "widen"    // the open wave has nobody: open it anew for those behind it
	Complete Move = "complete" // the end
)

// Decision is a move and the reason for it (for Stay: what it waits for).
type Decision struct {
	Move   Move
	Reason string
}

// Decide is the driver's whole judgement about a running rollout, and about a
// completed one, which only its breaker can still stop: for late devices.
func Decide(r Rollout, e Evidence) Decision {
	if reason, tripped := Breaker(r.Policy.Breaker, e.Window, e.Newest); tripped {
		return Decision{Halt, reason}
	}
	if r.State == Completed {
		return Decision{Stay, "completed"}
	}
	if e.Deltas != nil {
		return Decision{Stay, e.Deltas.String()}
	}
	w, ok := r.Current()
	if deadline := r.StartedAt.Add(time.Duration(r.Policy.Deadline)); !e.Now.Before(deadline) {
		reason := fmt.Sprintf("deadline of %v passed", r.Policy.Deadline)
		if ok && e.Away > 0 {
			// All who were there have it: the others get it when they are back.
			return Decision{Open, fmt.Sprintf("%s; %d devices were not heard of for long", reason, e.Away)}
		}
		return Decision{Complete, reason}
	}
	switch {
	case ok:
	case r.passed():
		return Decision{Complete, "all waves have passed"} // completed, halted for late devices, resumed
	default:
		return Decision{Open, "no wave is open"}
	}
	if e.Wave.Members == 0 && e.Beyond {
		return Decision{Widen, "the wave had no devices"}
	}
	if r.Last(w) {
		// All counts those whom the waves have reached, so the last wave's
		// share is committed when all of them are. Absent ones may come back until
		// the deadline.
		members := e.All.Members + e.All.Absent
		switch {
		case e.All.Members == 0 && !e.Proven:
			return Decision{Stay, FirstDevice(w, e.All)}
		case e.All.Committed >= members:
			return Decision{Complete, fmt.Sprintf("%d of %d devices committed", e.All.Committed, members)}
		case e.All.Decided >= members:
			// Somebody who resumed it since the newest outcome has seen the
			// share, and accepts it.
			if below(e.All.Committed, e.All.Sample(), r.Policy.Gate.SuccessPercent) && (r.ResumedAt.IsZero() || len(e.Newest) > 0) {
				return Decision{Halt, fmt.Sprintf("gate: %s %% of %d devices succeeded, %s %% needed",
					number(float64(e.All.Committed)*100/float64(e.All.Sample())), e.All.Sample(), number(r.Policy.Gate.SuccessPercent))}
			}
			return Decision{Complete, fmt.Sprintf("nobody left undecided: %d of %d devices committed", e.All.Committed, members)}
		}
		return Decision{Stay, fmt.Sprintf("%d of %d devices committed", e.All.Committed, members)}
	}
	if e.Wave.Members == 0 && !e.Proven {
		return Decision{Stay, FirstDevice(w, e.Wave)}
	}
	gate := Gate(r.Policy.Gate, w, e.Wave, e.Now)
	switch {
	case gate.Pass && e.Away > 0:
		return Decision{Stay, AllAway(e.Away)}
	case gate.Pass:
		return Decision{Open, fmt.Sprintf("%d of %d outcomes were successes", e.Wave.Committed, e.Wave.Sample())}
	case gate.Sampled && w.SampleAt.IsZero():
		return Decision{Sampled, gate.Waits}
	}
	return Decision{Stay, gate.Waits}
}

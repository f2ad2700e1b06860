package fleet

import (
	"fmt"
	"time"
)

// Tally counts the outcomes of one slice within the breaker's window.
type Tally struct {
	Slice string // "" for the whole rollout, else "model", "hardware", "region" or "from"
	Value string // of the slice
	// Sample is the number of outcomes, Failures how many of them were failed,
	// rolled_back or silent.
	Sample, Failures int64
	// Members is how many devices of the slice are in the waves opened so far.
	Members int64
	// FirstReason is that of the earliest failure. Absent: none was given.
	FirstReason string
}

// Breaker decides whether the rollout must stop, and says why: more failures
// than the percentage allows, given a large enough sample, or as many as the
// absolute limit, in the whole rollout or in one of its slices.
func Breaker(p BreakerPolicy, window []Tally) (reason string, tripped bool) {
	for _, t := range window {
		if t.Failures == 0 {
			continue
		}
		sampled := t.Sample >= max(1, min(p.MinSample, t.Members))
		share := sampled && above(t.Failures, t.Sample, p.Percent)
		absolute := p.Absolute > 0 && t.Failures >= p.Absolute
		if !share && !absolute {
			continue
		}
		limit := number(p.Percent) + " %"
		if !share {
			limit = fmt.Sprintf("%d devices", p.Absolute)
		}
		reason = fmt.Sprintf("breaker: %d of %d devices failed (%s %%, limit %s in %v)", t.Failures, t.Sample,
			number(float64(t.Failures)*100/float64(t.Sample)), limit, time.Duration(p.Window))
		if t.Slice != "" {
			reason += fmt.Sprintf(", slice %s=%s", t.Slice, t.Value)
		}
		if t.FirstReason != "" {
			reason += "; first reason " + t.FirstReason
		}
		return reason, true
	}
	return "", false
}

// Move is what the driver does next with a running rollout.
type Move string

// Moves.
const (
	Stay     Move = "stay"
	Halt     Move = "halt"     // the breaker tripped: pause
	Sampled  Move = "sampled"  // remember that the gate has its sample
	Open     Move = "open"     // the open wave passed: open the next
	Complete Move = "complete" // the end
)

// Decision is a move and the reason for it (for Stay: what it waits for).
type Decision struct {
	Move   Move
	Reason string
}

// Decide is the driver's whole judgement about a running rollout.
func Decide(r Rollout, e Evidence) Decision {
	if reason, tripped := Breaker(r.Policy.Breaker, e.Window); tripped {
		return Decision{Halt, reason}
	}
	if deadline := r.StartedAt.Add(time.Duration(r.Policy.Deadline)); !e.Now.Before(deadline) {
		return Decision{Complete, fmt.Sprintf("deadline of %v passed", r.Policy.Deadline)}
	}
	w, ok := r.Current()
	if !ok {
		return Decision{Open, "no wave is open"}
	}
	if r.Last(w) {
		// All counts those whom the waves have reached, so the last wave's
		// share is committed when all of them are.
		switch {
		case e.All.Members == 0 && e.Devices == 0: // an empty cohort: its devices are yet to come
		case e.All.Committed >= e.All.Members:
			return Decision{Complete, fmt.Sprintf("%d of %d devices committed", e.All.Committed, e.All.Members)}
		case e.All.Decided >= e.All.Members:
			return Decision{Complete, fmt.Sprintf("nobody left undecided: %d of %d devices committed", e.All.Committed, e.All.Members)}
		}
		return Decision{Stay, fmt.Sprintf("%d of %d devices committed", e.All.Committed, e.All.Members)}
	}
	gate := Gate(r.Policy.Gate, w, e.Wave, e.Now)
	switch {
	case gate.Pass:
		return Decision{Open, fmt.Sprintf("%d of %d outcomes were successes", e.Wave.Committed, e.Wave.Sample())}
	case gate.Sampled && w.SampleAt.IsZero():
		return Decision{Sampled, gate.Waits}
	}
	return Decision{Stay, gate.Waits}
}

package fleet

import (
	"fmt"
	"time"
)

// Evidence is what the driver read about a running rollout at one moment of
// the database's clock.
type Evidence struct {
	Now time.Time
	// Deltas is what the first wave waits for before it opens. Nil: for nothing.
	Deltas *DeltaWait
	// Wave counts the open wave's members.
	Wave Counts
	// All counts the members in all waves opened so far; only read while the
	// last one is open.
	All Counts
	// Proven: a device has committed, or nobody whom the release concerns is
	// left and some run it already. A revert needs no proof: what it goes back
	// to has been out there before. Only read while the open wave has no
	// members.
	Proven bool
	// Beyond: no device has committed, and there are members behind the open
	// wave. Only read while that has none.
	Beyond bool
	// Away counts the members behind the open wave when all of them are absent.
	// 0: some are there, or nobody is left. Only read when the gate lets the
	// next wave open.
	Away int64
	// Window tallies the outcomes within the breaker's window: the whole
	// rollout (Slice "") and each slice.
	Window []Tally
	// Newest tallies, for the whole and for each slice, the newest outcomes
	// since the start or the newest resume, each at most the breaker's minimum
	// sample.
	Newest []Tally
}

// AbsentAfter is how long before a wave opens a device must have been heard of
// last to be absent from it; for one that polls seldom it is the time after
// which it counts as silent, if that is longer.
const AbsentAfter = 24 * time.Hour

// Counts are numbers of members, as package fleet counts them. A device whose latest attempt ended
// well is committed, and failed when it did not; silent and unreached devices
// are undecided beside those.
type Counts struct {
	Members   int64 // without those that are absent
	Absent    int64 // not heard of since long before the wave opened
	Committed int64
	Failed    int64 // failed or rolled back
	Silent    int64 // started, then nothing for too long
	Unreached int64 // due for long, but never reported
	Decided   int64 // at the end of an attempt, or silent
}

// Sample is the number of outcomes: silence counts as one.
func (c Counts) Sample() int64 { return c.Committed + c.Failed + c.Silent }

// GateResult is what a gate says.
type GateResult struct {
	// Sampled: there are enough outcomes; the soak time runs.
	Sampled bool
	// Pass: the next wave may open.
	Pass bool
	// Waits says for what, for people. Absent when Pass.
	Waits string
}

// AllAway is what a wave waits for whose gate would let the next one open, but
// for nobody who is there.
func AllAway(away int64) string {
	return fmt.Sprintf("one of the %d devices behind it, none of which was heard of for long", away)
}

// Gate decides whether the wave after w may open. A wave without members
// passes here: Decide sees to it that somebody has proved the release before.
func Gate(p GatePolicy, w Wave, c Counts, now time.Time) GateResult {
	need := min(p.MinSample, c.Members)
	if c.Sample() < need {
		return GateResult{Waits: fmt.Sprintf("%d of %d outcomes needed", c.Sample(), need)}
	}
	result := GateResult{Sampled: true}
	switch {
	case below(c.Committed, c.Sample(), p.SuccessPercent):
		result.Waits = fmt.Sprintf("%d of %d devices succeeded, %s %% needed", c.Committed, c.Sample(), number(p.SuccessPercent))
	case above(c.Silent+c.Unreached, c.Members, p.MaxSilentPercent):
		result.Waits = fmt.Sprintf("%d of %d devices silent or unreached, at most %s %% allowed", c.Silent+c.Unreached, c.Members, number(p.MaxSilentPercent))
	case w.SampleAt.IsZero():
		if w.Soak > 0 {
			result.Waits = fmt.Sprintf("soak time of %v", w.Soak)
		} else {
			result.Pass = true
		}
	case now.Before(w.SampleAt.Add(time.Duration(w.Soak))):
		result.Waits = fmt.Sprintf("soak time until %s", w.SampleAt.Add(time.Duration(w.Soak)).UTC().Format(time.RFC3339))
	default:
		result.Pass = true
	}
	return result
}

// below reports whether part is less than percent of whole. Of nothing, nothing
// is missing.
func below(part, whole int64, percent float64) bool {
	return whole > 0 && float64(part)*100 < percent*float64(whole)
}

func above(part, whole int64, percent float64) bool {
	return float64(part)*100 > percent*float64(whole)
}

func number(v float64) string { return fmt.Sprintf("%.4g", v) }

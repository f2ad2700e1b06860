package fleet

import (
	"fmt"
	"time"

	"groundswell/topics"
)

// WaveState is where a wave stands.
type WaveState string

// States of a wave. At most one is open; those before it have passed.
const (
	WavePending WaveState = "pending"
	WaveOpen    WaveState = "open"
	WavePassed  WaveState = "passed"
)

// Wave is a share of a rollout's devices. With a canary cohort, wave 0 is all
// of that cohort and the policy's waves follow from index 1.
type Wave struct {
	Index   int
	Percent float64
	// Cohort is the canary cohort in its wave, else absent.
	Cohort string
	State  WaveState
	// Start and Threshold bound the positions; fixed when the wave opens.
	Start, Threshold int64
	OpenedAt         time.Time
	// OpensAt is what devices count from: OpenedAt, or the newest resume.
	OpensAt  time.Time
	ClosedAt time.Time
	Spread   Duration
	Soak     Duration
	// SampleAt is when the gate first had its sample; zero: not yet.
	SampleAt time.Time
	Members  int64 // as last counted, absent ones too; package fleet says who counts
	// Counts by state; only where the reader asked for them.
	Counts map[string]int64
	// Gate says what the open wave waits for; only where the reader asked.
	Gate string
}

// NewWaves lays out the waves of a new rollout, all pending.
func NewWaves(p Policy, canaryCohort string) []Wave {
	var waves []Wave
	if canaryCohort != "" {
		first := p.Waves[0]
		waves = append(waves, Wave{Percent: 100, Cohort: canaryCohort, State: WavePending, Spread: 0, Soak: first.Soak})
	}
	for _, w := range p.Waves {
		waves = append(waves, Wave{Index: len(waves), Percent: w.Percent, State: WavePending, Spread: w.Spread, Soak: w.Soak})
	}
	return waves
}

// OpenWave finds out where a percent wave ends when it opens. share is in parts
// per million, members the number of the rollout's members, previous the
// threshold of the wave before it, and kth answers the position of the k-th
// member (from 1) in order of position. A wave never ends before the previous
// one; a whole share ends at topics.Buckets, so that later members are in.
func OpenWave(share, members, previous int64, kth func(k int64) (int64, error)) (threshold int64, err error) {
	if share >= topics.Buckets {
		return topics.Buckets, nil
	}
	k := topics.ShareCount(share, members)
	if k == 0 {
		return previous, nil
	}
	position, err := kth(k)
	if err != nil {
		return 0, err
	}
	return max(previous, position+1), nil
}

// FirstDevice is what a wave without members waits for.
func FirstDevice(w Wave, c Counts) string {
	text := "the first device that the release concerns"
	if w.Cohort != "" {
		text = "the first device of canary cohort " + w.Cohort + " that the release concerns"
	}
	if c.Absent > 0 {
		text += fmt.Sprintf(" (%d not heard of for long)", c.Absent)
	}
	return text
}

// Respread is what is left of a wave's spread when it goes on at now after a
// pause that began at pausedAt: its devices start anew over that time.
func (w Wave) Respread(pausedAt, now time.Time) (opensAt time.Time, spread Duration) {
	left := w.OpensAt.Add(time.Duration(w.Spread)).Sub(pausedAt)
	left = min(max(left, 0), time.Duration(w.Spread))
	return now, Duration(left.Round(time.Second))
}

// Current returns the open wave, or false.
func (r Rollout) Current() (Wave, bool) {
	for _, w := range r.Waves {
		if w.State == WaveOpen {
			return w, true
		}
	}
	return Wave{}, false
}

// passed reports whether every wave has.
func (r Rollout) passed() bool {
	for _, w := range r.Waves {
		if w.State != WavePassed {
			return false
		}
	}
	return len(r.Waves) > 0
}

// Last reports whether no wave follows w.
func (r Rollout) Last(w Wave) bool { return w.Index == len(r.Waves)-1 }

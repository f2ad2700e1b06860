package fleet

import (
	"math"
	"slices"
	"time"

	"groundswell/topics"
)

// Ways to an artifact, as a preview knows them.
const (
	WayDelta  = "delta"
	WayPacked = "packed" // blocks that are packed one by one
	WayFull   = "full"   // the artifact as it is
)

// PreviewInput is what a preview is made of.
type PreviewInput struct {
	Rollout Rollout
	Release Release
	Sources []DeltaSource
	// Unknown devices are of the cohorts, and may be concerned, but never said what
	// they run; UnknownCanary are those of them in the canary cohort.
	Unknown, UnknownCanary int64
	// Done devices have been moved by the rollout already, DoneCanary are those of them in
	// the canary cohort: waves take their shares of these, too.
	Done, DoneCanary int64
	// Deltas pins the delta index, nil: there is none.
	Deltas *topics.Document
	// Packed is how many bytes the artifact's packed blocks have. 0: not known.
	Packed int64
	// IndexDeltas are how many bytes the deltas to the release's block index have, by the
	// digest of the one that they are from. Absent: devices fetch the index as it is.
	IndexDeltas map[string]int64
}

// Preview says what a rollout will cost before it starts. What devices have of the
// artifact already, and what they get from others on their network, is not known before:
// they receive at most this, if nothing is sent twice.
type Preview struct {
	Devices, Unknown int64           // that the rollout concerns
	Bytes            int64           // of those that its waves reach
	Sources          []PreviewSource // the most common first; those that are unknown last
	// Steps are the bytes that are received in each Step, from the start on, when each
	// wave opens as soon as the one before is over: spread, settled and soaked. Steps
	// in which nothing is are left out.
	Step  time.Duration // an hour, more when it takes a month or longer
	Steps []PreviewStep
	// Peak is the most in an hour, on the average of a step; Ends is when the last
	// device begins.
	Peak int64
	Ends time.Duration
}

// PreviewSource is devices that need the same.
type PreviewSource struct {
	From    string // absent: they never said what they run
	Devices int64
	Delta   DeltaState
	Way     string
	Each    int64 // bytes, with all indexes
	Bytes   int64 // of all of them
}

// PreviewStep is a step in which something is received.
type PreviewStep struct {
	From  time.Duration // since the start
	Bytes int64
}

// NewPreview works out a preview. Maintenance windows and devices that are off or slow
// make it take longer, and the peak lower.
func NewPreview(in PreviewInput) Preview {
	p := Preview{Unknown: in.Unknown}
	var canary, others int64 // bytes
	left := share{done: in.Done - in.DoneCanary}
	add := func(s PreviewSource, ofCanary int64) {
		if in.Rollout.CanaryCohort == "" {
			ofCanary = 0
		}
		s.Bytes = times(s.Devices, s.Each)
		p.Devices += s.Devices
		canary = plus(canary, times(ofCanary, s.Each))
		others = plus(others, times(s.Devices-ofCanary, s.Each))
		left.left = plus(left.left, s.Devices-ofCanary)
		p.Sources = append(p.Sources, s)
	}
	for _, s := range in.Sources {
		way, each := in.way(s)
		add(PreviewSource{From: s.From, Devices: s.Devices, Delta: s.State, Way: way, Each: each}, s.Canary)
	}
	if in.Unknown > 0 {
		way, each := in.way(DeltaSource{})
		add(PreviewSource{Devices: in.Unknown, Way: way, Each: each}, in.UnknownCanary)
	}
	reached := 0.0
	for _, w := range in.Rollout.Waves {
		if w.Cohort == "" {
			reached = left.of(w.Percent)
		}
	}
	p.Bytes = others
	if reached < 1 {
		p.Bytes = int64(math.Round(float64(others) * reached))
	}
	p.Bytes = plus(p.Bytes, canary)
	p.spread(in.Rollout, canary, others, left)
	return p
}

// share is of what devices a wave takes its share, but for the canary cohort's.
type share struct{ left, done int64 }

// of is how much of those that are left is reached, from 0 to 1, by a percentage of all. Those
// that are done are among the first.
func (s share) of(percent float64) float64 {
	if s.done == 0 || s.left == 0 {
		return percent / 100
	}
	reached := (float64(s.left)+float64(s.done))*percent/100 - float64(s.done)
	return min(max(reached/float64(s.left), 0), 1)
}

// way is how a device gets the artifact, and how many bytes that takes.
func (in PreviewInput) way(s DeltaSource) (way string, each int64) {
	way, each = WayFull, in.Release.Length
	if in.Release.Index == nil {
		return way, each
	}
	if in.Packed > 0 && in.Packed < each {
		way, each = WayPacked, in.Packed
	}
	if s.State == DeltaReady {
		way, each = WayDelta, s.Delta.Length
	}
	if way == WayDelta && in.Deltas != nil {
		each += in.Deltas.Length
	}
	if n, ok := in.IndexDeltas[s.Index]; ok && s.Index != "" {
		return way, each + n
	}
	return way, each + in.Release.Index.Length
}

// piece is bytes that are received at an even rate.
type piece struct {
	begin, length time.Duration
	bytes         float64
}

// maxSteps bounds how many steps there are.
const maxSteps = 31 * 24

// spread lays the bytes out over the waves.
func (p *Preview) spread(r Rollout, canary, others int64, left share) {
	var pieces []piece
	at, before := time.Duration(0), 0.0
	for i, w := range r.Waves {
		bytes := float64(canary)
		if w.Cohort == "" {
			reached := left.of(w.Percent)
			bytes, before = float64(others)*(reached-before), reached
		}
		pieces = append(pieces, piece{at, time.Duration(w.Spread), bytes})
		p.Ends = at + time.Duration(w.Spread)
		if i < len(r.Waves)-1 {
			at = p.Ends + time.Duration(r.Policy.Settle) + time.Duration(w.Soak)
		}
	}
	hours := int64(p.Ends/time.Hour) + 1
	p.Step = time.Duration((hours+maxSteps-1)/maxSteps) * time.Hour
	steps := make([]float64, int64(p.Ends/p.Step)+1)
	for _, x := range pieces {
		first, last := int64(x.begin/p.Step), int64((x.begin+x.length)/p.Step)
		for i := first; i <= last; i++ {
			share := 1.0
			if x.length > 0 {
				from, to := max(x.begin, time.Duration(i)*p.Step), min(x.begin+x.length, time.Duration(i+1)*p.Step)
				share = float64(to-from) / float64(x.length)
			}
			steps[i] += share * x.bytes
		}
	}
	for i, bytes := range steps {
		if n := int64(math.Round(min(bytes, math.MaxInt64/2))); n > 0 {
			p.Steps = append(p.Steps, PreviewStep{From: time.Duration(i) * p.Step, Bytes: n})
		}
	}
	if len(p.Steps) > 0 {
		most := slices.MaxFunc(p.Steps, func(a, b PreviewStep) int { return int(min(max(a.Bytes-b.Bytes, -1), 1)) })
		p.Peak = most.Bytes / int64(p.Step/time.Hour)
	}
}

// times and plus end at the largest number.
func times(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}

func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

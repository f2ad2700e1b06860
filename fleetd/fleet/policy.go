package fleet

import (
	"fmt"
	"math"
	"slices"
	"time"

	"groundswell/topics"
)

// Duration is a time span that is written as Go writes it ("15m", "336h").
type Duration time.Duration

// MarshalText writes "15m0s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 15m", text)
	}
	*d = Duration(parsed)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Seconds is the duration in whole seconds, rounded up.
func (d Duration) Seconds() int64 {
	return int64((time.Duration(d) + time.Second - 1) / time.Second)
}

// Policy is how a rollout goes, with every default filled in. PolicySpec is
// what people write.
type Policy struct {
	Waves   []WavePolicy  `json:"waves"`
	Gate    GatePolicy    `json:"gate"`
	Breaker BreakerPolicy `json:"breaker"`
	Silent  SilentPolicy  `json:"silent"`
	// Deadline counts from the start; then the rollout is completed, whoever
	// is missing.
	Deadline Duration `json:"deadline"`
	// DeltaWait is how long after the start the first wave waits for the deltas
	// from the versions that most devices run; never longer than half of the
	// deadline. 0: it does not wait.
	DeltaWait Duration `json:"delta_wait"`
	// DeltaCoder is how deltas to the release are coded that are yet to be made: CoderMixed,
	// CoderZstd or CoderAuto, with CoderPlain before it or not. Absent: as fleetd's configuration says.
	DeltaCoder string `json:"delta_coder,omitempty"`
	// Windows is when devices may begin to install. Absent: always.
	Windows []topics.Window `json:"windows,omitempty"`
	// DownloadWindows is when devices may fetch bytes. Absent: in Windows, or later.
	DownloadWindows []topics.Window `json:"download_windows,omitempty"`
	Attempts        int             `json:"attempts"`
	Settle          Duration        `json:"settle"`
	HealthTimeout   Duration        `json:"health_timeout"`
	Fresh           Duration        `json:"fresh"`
}

// WavePolicy is one wave.
type WavePolicy struct {
	// Percent of the rollout's members, this wave and those before it.
	Percent float64 `json:"percent"`
	// Spread is the time over which the wave's devices start. 0: all at once.
	Spread Duration `json:"spread"`
	// Soak is how long the gate must have had its sample before the next wave.
	Soak Duration `json:"soak"`
}

// Share is Percent in parts per million.
func (w WavePolicy) Share() int64 { return int64(math.Round(w.Percent * 10_000)) }

// GatePolicy is what must hold before the next wave opens.
type GatePolicy struct {
	SuccessPercent   float64 `json:"success_percent"` // of the outcomes, at least
	MinSample        int64   `json:"min_sample"`      // outcomes; never more than the wave has members
	MaxSilentPercent float64 `json:"max_silent_percent"`
}

// BreakerPolicy is what pauses the rollout; see Breaker.
type BreakerPolicy struct {
	// Percent of the outcomes in the window; more failures than that trip it.
	Percent   float64  `json:"percent"`
	Window    Duration `json:"window"`
	MinSample int64    `json:"min_sample"` // outcomes in the window; never more than there are members
	// Absolute number of failures in the window that trips it by itself. 0: none.
	Absolute int64 `json:"absolute"`
	// Slices are looked at each by itself too: "model", "hardware", "region", "from".
	Slices []string `json:"slices"`
}

// SilentPolicy says when a device that has started counts as failed.
type SilentPolicy struct {
	Factor  float64  `json:"factor"` // times the device's polling interval ...
	AtLeast Duration `json:"at_least"`
}

// PolicySpec is a policy as people write it: what is absent gets its default.
type PolicySpec struct {
	Waves           []WaveSpec      `json:"waves,omitempty"`
	Gate            *GateSpec       `json:"gate,omitempty"`
	Breaker         *BreakerSpec    `json:"breaker,omitempty"`
	Silent          *SilentSpec     `json:"silent,omitempty"`
	Deadline        *Duration       `json:"deadline,omitempty"`
	DeltaWait       *Duration       `json:"delta_wait,omitempty"`
	DeltaCoder      string          `json:"delta_coder,omitempty"`
	Windows         []topics.Window `json:"windows,omitempty"`
	DownloadWindows []topics.Window `json:"download_windows,omitempty"`
	Attempts        *int            `json:"attempts,omitempty"`
	Settle          *Duration       `json:"settle,omitempty"`
	HealthTimeout   *Duration       `json:"health_timeout,omitempty"`
	Fresh           *Duration       `json:"fresh,omitempty"`
}

// WaveSpec is a WavePolicy as people write it.
type WaveSpec struct {
	Percent float64   `json:"percent"`
	Spread  *Duration `json:"spread,omitempty"` // default: that of the default wave in this place
	Soak    *Duration `json:"soak,omitempty"`
}

// GateSpec is a GatePolicy as people write it.
type GateSpec struct {
	SuccessPercent   *float64 `json:"success_percent,omitempty"`
	MinSample        *int64   `json:"min_sample,omitempty"`
	MaxSilentPercent *float64 `json:"max_silent_percent,omitempty"`
}

// BreakerSpec is a BreakerPolicy as people write it.
type BreakerSpec struct {
	Percent   *float64  `json:"percent,omitempty"`
	Window    *Duration `json:"window,omitempty"`
	MinSample *int64    `json:"min_sample,omitempty"`
	Absolute  *int64    `json:"absolute,omitempty"`
	Slices    []string  `json:"slices,omitempty"` // absent: all; ["none"]: none
}

// SilentSpec is a SilentPolicy as people write it.
type SilentSpec struct {
	Factor  *float64  `json:"factor,omitempty"`
	AtLeast *Duration `json:"at_least,omitempty"`
}

const minute = Duration(time.Minute)

// DefaultPolicy is the policy of a rollout that says nothing. A revert opens
// its waves faster, and waits for no deltas: what it replaces is known to be bad.
func DefaultPolicy(kind topics.EntryKind) Policy {
	p := Policy{
		Waves: []WavePolicy{
			{0.1, 10 * minute, 15 * minute},
			{1, 10 * minute, 15 * minute},
			{10, 30 * minute, 30 * minute},
			{50, 60 * minute, 30 * minute},
			{100, 120 * minute, 0},
		},
		Gate:          GatePolicy{SuccessPercent: 95, MinSample: 50, MaxSilentPercent: 5},
		Breaker:       BreakerPolicy{Percent: 2, Window: 10 * minute, MinSample: 50, Slices: slices.Clone(allSlices)},
		Silent:        SilentPolicy{Factor: 3, AtLeast: 15 * minute},
		Deadline:      14 * 24 * 60 * minute,
		DeltaWait:     10 * minute,
		Attempts:      topics.DefaultAttempts,
		Settle:        minute,
		HealthTimeout: 5 * minute,
		Fresh:         Duration(topics.DefaultFresh),
	}
	if kind == topics.EntryRevert {
		p.DeltaWait = 0
		p.Waves = []WavePolicy{{1, minute, 2 * minute}, {10, 5 * minute, 5 * minute}, {100, 15 * minute, 0}}
	}
	return p
}

// The slices of a breaker.
const (
	SliceModel    = "model"
	SliceHardware = "hardware"
	SliceRegion   = "region"
	SliceFrom     = "from" // the version before the attempt
)

var allSlices = []string{SliceModel, SliceHardware, SliceRegion, SliceFrom}

// Resolve fills in the defaults and checks the result; a FieldError points
// below /policy.
func (s PolicySpec) Resolve(kind topics.EntryKind) (Policy, error) {
	p := DefaultPolicy(kind)
	if s.Waves != nil {
		defaults := p.Waves
		p.Waves = make([]WavePolicy, len(s.Waves))
		for i, w := range s.Waves {
			// The last wave given is like the last default one.
			like := defaults[min(i, len(defaults)-1)]
			if i == len(s.Waves)-1 {
				like = defaults[len(defaults)-1]
			}
			p.Waves[i] = WavePolicy{w.Percent, or(w.Spread, like.Spread), or(w.Soak, like.Soak)}
		}
	}
	if g := s.Gate; g != nil {
		p.Gate = GatePolicy{or(g.SuccessPercent, p.Gate.SuccessPercent), or(g.MinSample, p.Gate.MinSample), or(g.MaxSilentPercent, p.Gate.MaxSilentPercent)}
	}
	if b := s.Breaker; b != nil {
		p.Breaker.Percent = or(b.Percent, p.Breaker.Percent)
		p.Breaker.Window = or(b.Window, p.Breaker.Window)
		p.Breaker.MinSample = or(b.MinSample, p.Breaker.MinSample)
		p.Breaker.Absolute = or(b.Absolute, p.Breaker.Absolute)
		if slices.Equal(b.Slices, []string{"none"}) {
			p.Breaker.Slices = []string{}
		} else if b.Slices != nil {
			p.Breaker.Slices = b.Slices
		}
	}
	if q := s.Silent; q != nil {
		p.Silent = SilentPolicy{or(q.Factor, p.Silent.Factor), or(q.AtLeast, p.Silent.AtLeast)}
	}
	p.Deadline = or(s.Deadline, p.Deadline)
	p.DeltaWait = or(s.DeltaWait, p.DeltaWait)
	p.DeltaCoder = s.DeltaCoder
	p.Windows, p.DownloadWindows = s.Windows, s.DownloadWindows
	p.Attempts = or(s.Attempts, p.Attempts)
	p.Settle = or(s.Settle, p.Settle)
	p.HealthTimeout = or(s.HealthTimeout, p.HealthTimeout)
	p.Fresh = or(s.Fresh, p.Fresh)
	return p, p.Validate()
}

func or[T any](given *T, otherwise T) T {
	if given != nil {
		return *given
	}
	return otherwise
}

const year = Duration(366 * 24 * time.Hour)

// Validate returns a FieldError below /policy.
func (p Policy) Validate() error {
	if len(p.Waves) == 0 {
		return Invalid("/policy/waves", "has no wave")
	}
	// One index is kept for the canary cohort.
	if len(p.Waves) > topics.MaxWaves-1 {
		return Invalid("/policy/waves", "has more than %d waves", topics.MaxWaves-1)
	}
	share := int64(0)
	for i, w := range p.Waves {
		at := index("/policy/waves", i)
		switch {
		case !(w.Percent > 0 && w.Percent <= 100):
			return Invalid(at+"/percent", "must be above 0 and at most 100")
		case w.Share() < 1:
			return Invalid(at+"/percent", "must be at least 0.0001")
		case w.Share() <= share:
			return Invalid(at+"/percent", "must be more than that of the wave before it")
		}
		share = w.Share()
		if err := firstError(span(at+"/spread", w.Spread, 0, year), span(at+"/soak", w.Soak, 0, year)); err != nil {
			return err
		}
	}
	for i, s := range p.Breaker.Slices {
		if !slices.Contains(allSlices, s) {
			return Invalid(index("/policy/breaker/slices", i), "%q is not one of model, hardware, region, from", s)
		}
		if slices.Contains(p.Breaker.Slices[:i], s) {
			return Invalid(index("/policy/breaker/slices", i), "%q stands twice", s)
		}
	}
	second := Duration(time.Second)
	err := firstError(
		percent("/policy/gate/success_percent", p.Gate.SuccessPercent),
		percent("/policy/gate/max_silent_percent", p.Gate.MaxSilentPercent),
		percent("/policy/breaker/percent", p.Breaker.Percent),
		span("/policy/breaker/window", p.Breaker.Window, second, year),
		span("/policy/silent/at_least", p.Silent.AtLeast, second, year),
		span("/policy/deadline", p.Deadline, second, 10*year),
		span("/policy/delta_wait", p.DeltaWait, 0, year),
		CheckCoder("/policy/delta_coder", p.DeltaCoder),
		span("/policy/settle", p.Settle, second, year),
		span("/policy/health_timeout", p.HealthTimeout, second, year),
		span("/policy/fresh", p.Fresh, second, year),
		pointed("/policy", topics.CheckWindows("windows", p.Windows)),
		pointed("/policy", topics.CheckWindows("download_windows", p.DownloadWindows)),
	)
	switch {
	case err != nil:
		return err
	case p.Gate.MinSample < 1:
		return Invalid("/policy/gate/min_sample", "must be at least 1")
	case p.Breaker.MinSample < 1:
		return Invalid("/policy/breaker/min_sample", "must be at least 1")
	case p.Breaker.Absolute < 0:
		return Invalid("/policy/breaker/absolute", "must not be negative")
	case !(p.Silent.Factor >= 0 && p.Silent.Factor <= 1000):
		return Invalid("/policy/silent/factor", "must be from 0 to 1000")
	case p.Attempts < 1 || p.Attempts > 1000:
		return Invalid("/policy/attempts", "must be from 1 to 1000")
	}
	return nil
}

func percent(pointer string, v float64) error {
	if !(v > 0 && v <= 100) { // refuses NaN too
		return Invalid(pointer, "must be above 0 and at most 100")
	}
	return nil
}

func span(pointer string, d, least, most Duration) error {
	if d < least || d > most {
		return Invalid(pointer, "must be from %v to %v", least, most)
	}
	return nil
}

package api

import (
	"fmt"
	"strings"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// policySpec is a policy as people write it: what is absent gets its default.
// Durations are Go's: "90s", "15m", "336h".
type policySpec struct {
	Waves           []waveSpec      `json:"waves,omitempty" maxItems:"31" doc:"Default 0.1, 1, 10, 50, 100 %"`
	Gate            *gateSpec       `json:"gate,omitempty" doc:"What must hold before the next wave opens"`
	Breaker         *breakerSpec    `json:"breaker,omitempty" doc:"What pauses the rollout"`
	Silent          *silentSpec     `json:"silent,omitempty" doc:"When a device that has started counts as failed"`
	Deadline        string          `json:"deadline,omitempty" doc:"From the start; then it is completed, whoever is missing. Default 336h"`
	DeltaWait       string          `json:"delta_wait,omitempty" doc:"How long after the start the first wave waits for the deltas from the versions that most devices run; 0s: not at all. Default 10m, for a revert 0s"`
	DeltaCoder      string          `json:"delta_coder,omitempty" doc:"How deltas to the release are coded that are yet to be made: mixed (smaller), zstd (devices decode it in a tenth of the time), or auto: zstd from versions that mostly devices run which poll, mixed from the others. plain-mixed, plain-zstd, plain-auto: so, and none is made that looks through compression, which devices need processor time and room for. Absent: as fleetd's configuration says"`
	Windows         []topics.Window `json:"windows,omitempty" maxItems:"14" doc:"When devices may begin to install, in their own time zone. Absent: always"`
	DownloadWindows []topics.Window `json:"download_windows,omitempty" maxItems:"14" doc:"When devices may fetch bytes, in their own time zone; then they do not wait for windows to do so. Absent: when they may begin to install, or have begun. Agents of before 2026-12 do not know it"`
	Attempts        *int            `json:"attempts,omitempty" doc:"How often a device may try. Default 2"`
	Settle          string          `json:"settle,omitempty" doc:"How long the new version must be healthy. Default 1m"`
	HealthTimeout   string          `json:"health_timeout,omitempty" doc:"How long it may take until it is. Default 5m"`
	Fresh           string          `json:"fresh,omitempty" doc:"How old the manifest may be at activation. Default 15m"`
}

type waveSpec struct {
	Percent float64 `json:"percent" doc:"Of the rollout's members, this wave and those before it; above 0, at most 100. A wave without members waits for the first, and nothing but a first wave of 100 opens to all before a device has committed"`
	Spread  string  `json:"spread,omitempty" doc:"The time over which the wave's devices start"`
	Soak    string  `json:"soak,omitempty" doc:"How long the gate must have had its sample"`
}

type gateSpec struct {
	SuccessPercent   *float64 `json:"success_percent,omitempty" doc:"Of the outcomes, at least; above 0, at most 100. Default 95"`
	MinSample        *int64   `json:"min_sample,omitempty" doc:"Outcomes; never more than the wave has members. Default 50"`
	MaxSilentPercent *float64 `json:"max_silent_percent,omitempty" doc:"Of the wave's members; above 0, at most 100. Default 5"`
}

type breakerSpec struct {
	Percent   *float64 `json:"percent,omitempty" doc:"More failures than that in the window trip it; above 0, at most 100. Default 2"`
	Window    string   `json:"window,omitempty"`
	MinSample *int64   `json:"min_sample,omitempty"`
	Absolute  *int64   `json:"absolute,omitempty" doc:"So many failures in the window trip it by themselves; 0: none"`
	Slices    []string `json:"slices,omitempty" doc:"Looked at each by itself too: model, hardware, region, from; or none"`
}

type silentSpec struct {
	Factor  *float64 `json:"factor,omitempty" doc:"Times the polling interval"`
	AtLeast string   `json:"at_least,omitempty"`
}

// domain reads the durations; the refusals point below /policy. The rest is
// for fleet.PolicySpec.Resolve to check.
func (p policySpec) domain() (fleet.PolicySpec, error) {
	var d durations
	out := fleet.PolicySpec{
		DeltaCoder: p.DeltaCoder, Windows: p.Windows, DownloadWindows: p.DownloadWindows, Attempts: p.Attempts,
		Deadline: d.read("/policy/deadline", p.Deadline), DeltaWait: d.read("/policy/delta_wait", p.DeltaWait), Settle: d.read("/policy/settle", p.Settle),
		HealthTimeout: d.read("/policy/health_timeout", p.HealthTimeout), Fresh: d.read("/policy/fresh", p.Fresh),
	}
	if p.Waves != nil {
		out.Waves = []fleet.WaveSpec{}
	}
	for i, w := range p.Waves {
		at := fmt.Sprintf("/policy/waves/%d", i)
		out.Waves = append(out.Waves, fleet.WaveSpec{Percent: w.Percent, Spread: d.read(at+"/spread", w.Spread), Soak: d.read(at+"/soak", w.Soak)})
	}
	if g := p.Gate; g != nil {
		out.Gate = &fleet.GateSpec{SuccessPercent: g.SuccessPercent, MinSample: g.MinSample, MaxSilentPercent: g.MaxSilentPercent}
	}
	if b := p.Breaker; b != nil {
		out.Breaker = &fleet.BreakerSpec{Percent: b.Percent, Window: d.read("/policy/breaker/window", b.Window), MinSample: b.MinSample, Absolute: b.Absolute, Slices: b.Slices}
	}
	if q := p.Silent; q != nil {
		out.Silent = &fleet.SilentSpec{Factor: q.Factor, AtLeast: d.read("/policy/silent/at_least", q.AtLeast)}
	}
	return out, d.err
}

// durations reads several durations and keeps the first refusal.
type durations struct{ err error }

func (d *durations) read(pointer, text string) *fleet.Duration {
	if text == "" {
		return nil
	}
	parsed, err := parseDuration(pointer, text)
	if err != nil && d.err == nil {
		d.err = err
	}
	duration := fleet.Duration(parsed)
	return &duration
}

func parseDuration(pointer, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || strings.Trim(text, "0123456789") == "" && text != "0" {
		return 0, fleet.Invalid(pointer, "%.40q is not a duration such as 90s, 15m or 336h", text)
	}
	return d, nil
}

func durationOr(pointer, text string, otherwise time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	return parseDuration(pointer, text)
}

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"text/tabwriter"
	"time"

	"groundswell/internal/devstack/stack"
)

// Result is what demo.json holds.
type Result struct {
	OK       bool      `json:"ok"`
	Seconds  float64   `json:"seconds"`
	Devices  int       `json:"devices"`
	Rollouts []Outcome `json:"rollouts"`
	// Versions is how many devices run which version at the end.
	Versions map[string]int `json:"versions"`
	CheckIn  Quantiles      `json:"check_in_ms"`
	// PauseToDeviceMillis is from the pause's request until the last connected
	// device held the paused manifest.
	PauseToDeviceMillis float64 `json:"pause_to_last_device_ms"`
}

// Quantiles of the devices' newest check-ins: CONNECT to the last manifest
// received, over mutual TLS, in ms.
type Quantiles struct {
	Samples int     `json:"samples"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
}

// Outcome is how a rollout went.
type Outcome struct {
	ID       string         `json:"id"`
	Release  string         `json:"release"`
	State    string         `json:"state"`
	Reason   string         `json:"reason,omitempty"` // why it is in this state: the breaker's words, or how many committed
	Waves    []Wave         `json:"waves"`
	Outcomes map[string]int `json:"outcomes"` // devices by their newest state
	// Transfer is where the bytes came from that the devices got, as they say.
	Transfer stack.Transfer `json:"transfer"`
	// Delta is what it went by; absent: it was not asked about.
	Delta *Delta `json:"delta,omitempty"`
}

// Wave is one wave of a rollout that is over.
type Wave struct {
	Percent  float64        `json:"percent"`
	Devices  int            `json:"devices"`
	State    string         `json:"state"`
	OpenedAt *time.Time     `json:"opened_at,omitempty"`
	ClosedAt *time.Time     `json:"closed_at,omitempty"`
	Counts   map[string]int `json:"counts"`
}

func outcomeOf(r *stack.Rollout) Outcome {
	o := Outcome{ID: r.ID, Release: r.Release.Name + " " + r.Release.Version, State: r.State, Reason: r.Reason, Outcomes: map[string]int{}, Transfer: r.Transfer}
	for _, w := range r.Waves {
		o.Waves = append(o.Waves, Wave{w.Percent, w.Members, w.State, w.OpenedAt, w.ClosedAt, nonZero(w.Counts)})
		for state, n := range nonZero(w.Counts) {
			o.Outcomes[state] += n
		}
	}
	return o
}

func nonZero(counts map[string]int) map[string]int {
	out := map[string]int{}
	for state, n := range counts {
		if n > 0 {
			out[state] = n
		}
	}
	return out
}

// quantiles by the nearest-rank method.
func quantiles(samples []int64) Quantiles {
	if len(samples) == 0 {
		return Quantiles{}
	}
	slices.Sort(samples)
	at := func(p float64) float64 {
		return float64(samples[max(0, int(math.Ceil(p*float64(len(samples))))-1)])
	}
	return Quantiles{len(samples), at(0.50), at(0.99)}
}

func round(f float64) float64 { return math.Round(f*10) / 10 }

// print writes the summary.
func (r *Result) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nROLLOUT\tSTATE\tWAVE\tDEVICES\tOPEN FOR\tOUTCOMES")
	for _, o := range r.Rollouts {
		for i, wave := range o.Waves {
			name, state := "", ""
			if i == 0 {
				name, state = o.Release, o.State
			}
			fmt.Fprintf(w, "%s\t%s\t%s %%\t%d\t%s\t%s\n", name, state, percent(wave.Percent), wave.Devices, openFor(wave),
				counts(stack.Wave{Members: wave.Devices, Counts: wave.Counts}))
		}
		if o.Reason != "" {
			fmt.Fprintf(w, "\t\t\t\t\t%s\n", o.Reason)
		}
	}
	_ = w.Flush() // standard output
	fmt.Fprintln(out)
	for _, o := range r.Rollouts {
		if t := o.Transfer; t.Devices > 0 {
			fmt.Fprintf(out, "%s: %d devices fetched %s (%s of deltas, %s packed, %s full, %s of indexes), had %s already; deltas saved %s.\n",
				o.Release, t.Devices, kilobytes(t.Origin), kilobytes(t.Delta), kilobytes(t.Packed), kilobytes(t.Full), kilobytes(t.Index),
				kilobytes(t.Local), kilobytes(t.Saved))
		}
		if o.Delta != nil {
			o.Delta.print(out, o.Release)
		}
	}
	versions := make([]string, 0, len(r.Versions))
	for v := range r.Versions {
		versions = append(versions, v)
	}
	sort.Strings(versions)
	fmt.Fprintln(out)
	for _, v := range versions {
		fmt.Fprintf(out, "%d of %d devices run %s.\n", r.Versions[v], r.Devices, v)
	}
	if r.CheckIn.Samples > 0 {
		fmt.Fprintf(out, "Check-in: p50 %.0f ms, p99 %.0f ms (%d devices). ", r.CheckIn.P50, r.CheckIn.P99, r.CheckIn.Samples)
	}
	if r.PauseToDeviceMillis > 0 {
		fmt.Fprintf(out, "Pause to last connected device: %.0f ms.", r.PauseToDeviceMillis)
	}
	fmt.Fprintln(out)
}

func kilobytes(n int64) string { return fmt.Sprintf("%.1f kB", float64(n)/1000) }

func openFor(w Wave) string {
	switch {
	case w.OpenedAt == nil:
		return "never"
	case w.ClosedAt == nil:
		return "still"
	}
	return w.ClosedAt.Sub(*w.OpenedAt).Round(100 * time.Millisecond).String()
}

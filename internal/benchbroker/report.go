package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// figures are what was measured of one server, by name.
type figures map[string]float64

// The figures.
const (
	figureMemory          = "kib_per_session"
	figureConnects        = "connects_per_second"
	figureConnectCost     = "server_ms_per_connect"
	figureUplink          = "messages_per_second"
	figureUplinkCost      = "server_us_per_message"
	figureUplinkTaken     = "percent_taken_by_subscriber"
	figureFanOut50        = "fan_out_p50_ms"
	figureFanOut99        = "fan_out_p99_ms"
	figureFanOutMissing   = "fan_out_missing"
	figureRetainedLoad    = "retained_published_per_second"
	figureRetainedMemory  = "bytes_per_retained"
	figureRetained        = "retained_seconds"
	figureRetainedMissing = "retained_missing"
	figureQuiet           = "round_trip_p99_ms"
	figureHostile         = "round_trip_p99_ms_among_hostile"
)

// report is the outcome of a run.
type report struct {
	When    time.Time          `json:"when"`
	Machine string             `json:"machine"`
	Load    string             `json:"load_before"`
	Options options            `json:"options"`
	Servers []string           `json:"servers"`
	Promise map[string]string  `json:"promise"`
	Figures map[string]figures `json:"figures"`

	titles map[string]string
}

func newReport(o options, chosen []server) *report {
	r := &report{
		When: time.Now().UTC().Truncate(time.Second), Machine: machine(), Load: load(), Options: o,
		Promise: map[string]string{}, Figures: map[string]figures{}, titles: map[string]string{},
	}
	for _, s := range chosen {
		r.Servers = append(r.Servers, s.name)
		r.Promise[s.name], r.titles[s.name], r.Figures[s.name] = s.promise, s.title, figures{}
	}
	return r
}

func (r *report) of(s server) figures { return r.Figures[s.name] }

// row of the table.
type row struct {
	figure, title, format string
	plain                 bool // a count or a share, of which a ratio says nothing
}

func (r *report) rows() []row {
	o := r.Options
	return []row{
		{figure: figureMemory, title: fmt.Sprintf("memory per idle mTLS session, of %d", o.Sessions), format: "%.1f KiB"},
		{figure: figureConnects, title: "mTLS connects per second", format: "%.0f"},
		{figure: figureConnectCost, title: "server's processor time per connect", format: "%.2f ms"},
		{figure: figureUplink, title: fmt.Sprintf("QoS 1 messages acknowledged per second, %d sessions, %d under way each", o.Publishers, o.Window), format: "%.0f"},
		{figure: figureUplinkCost, title: "server's processor time per message", format: "%.0f µs"},
		{figure: figureUplinkTaken, title: "of them, what the one subscriber got", format: "%.1f %%", plain: true},
		{figure: figureFanOut50, title: fmt.Sprintf("one retained manifest (4 KiB) to %d sessions: p50", o.Sessions), format: "%.0f ms"},
		{figure: figureFanOut99, title: "the same: p99", format: "%.0f ms"},
		{figure: figureFanOutMissing, title: "the same: receipts missing", format: "%.0f", plain: true},
		{figure: figureRetainedLoad, title: "retained messages stored per second, one publisher", format: "%.0f"},
		{figure: figureRetainedMemory, title: fmt.Sprintf("memory per retained message of 256 bytes, of %d", o.Retained), format: "%.0f B"},
		{figure: figureRetained, title: fmt.Sprintf("%d retained messages to a new wildcard subscriber", o.Retained), format: "%.2f s"},
		{figure: figureRetainedMissing, title: "the same: missing", format: "%.0f", plain: true},
		{figure: figureQuiet, title: fmt.Sprintf("QoS 1 report to its acknowledgement, %d sessions, 20/s each: p99", min(wellBehaved, o.Publishers)), format: "%.1f ms"},
		{figure: figureHostile, title: fmt.Sprintf("the same, beside %d half-open handshakes, %d clients that send a byte a minute and %d that do not read any more: p99", o.HalfOpen, slow, deafs), format: "%.1f ms"},
	}
}

// table writes the results in Markdown. In parentheses stands how many times
// the first server's figure the figure is.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| what |")
	for _, name := range r.Servers {
		fmt.Fprintf(&b, " %s |", r.titles[name])
	}
	fmt.Fprintf(&b, "\n| --- |%s\n", strings.Repeat(" --- |", len(r.Servers)))
	for _, row := range r.rows() {
		if !slices.ContainsFunc(r.Servers, func(name string) bool { _, ok := r.Figures[name][row.figure]; return ok }) {
			continue
		}
		fmt.Fprintf(&b, "| %s |", row.title)
		for _, name := range r.Servers {
			fmt.Fprintf(&b, " %s |", r.cell(row, name))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\nIn parentheses: times the first column. Machine: %s; load before: %s. Servers one after the other, the load in a process of its own on the same cores.\n", r.Machine, r.Load)
	b.WriteString("What an acknowledged QoS 1 message is:\n")
	for _, name := range r.Servers {
		fmt.Fprintf(&b, "- %s: %s.\n", r.titles[name], r.Promise[name])
	}
	fmt.Fprintf(&b, "\nVersions: %s.\n", versions(r.Servers))
	return b.String()
}

func (r *report) cell(row row, name string) string {
	value, ok := r.Figures[name][row.figure]
	if !ok {
		return "-"
	}
	text := fmt.Sprintf(row.format, value)
	if first, ok := r.Figures[r.Servers[0]][row.figure]; ok && !row.plain && name != r.Servers[0] && first > 0 {
		text += fmt.Sprintf(" (%.2g)", value/first)
	}
	return text
}

// median of a list that is not empty.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// rounded is for the eye.
func rounded(values []float64) string {
	var parts []string
	for _, v := range values {
		parts = append(parts, fmt.Sprintf("%.4g", v))
	}
	return strings.Join(parts, " ")
}

// percentile of a sorted list; p from 0 to 100. 0 for an empty one.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*p/100+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func machine() string {
	text := fmt.Sprintf("%d cores", runtime.NumCPU())
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				text += " (" + strings.TrimSpace(value) + ")"
				break
			}
		}
	}
	if data, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		text += ", Linux " + strings.TrimSpace(string(data))
	}
	return text
}

func versions(names []string) string {
	parts := []string{runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		parts = append(parts, "groundswell "+info.Main.Version)
	}
	if data, err := os.ReadFile("go.mod"); err == nil {
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) >= 2 && (strings.Contains(fields[0], "mochi-mqtt/server") || strings.Contains(fields[0], "nats-server")) {
				parts = append(parts, fields[0]+" "+fields[1])
			}
		}
	}
	if slices.Contains(names, "mosquitto") {
		if out, _ := exec.Command(mosquittoPath, "-h").Output(); len(out) > 0 { // it exits with 1
			line, _, _ := strings.Cut(string(out), "\n")
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, ", ")
}

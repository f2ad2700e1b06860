package main

import (
	"fmt"
	"os"
	"strings"

	"groundswell/internal/devstack/stack"

	"golang.org/x/term"
)

// view shows the waves of a rollout: redrawn in place on a terminal, elsewhere
// one line whenever something changed.
type view struct {
	out   *os.File
	tty   bool
	lines int
	last  string
}

func newView(out *os.File) *view {
	return &view{out: out, tty: term.IsTerminal(int(out.Fd()))}
}

func (v *view) draw(r *stack.Rollout) {
	var rows []string
	for _, w := range r.Waves {
		rows = append(rows, waveLine(w))
	}
	text := strings.Join(rows, "\n")
	if text == v.last {
		return
	}
	v.last = text
	if !v.tty {
		compact := []string{}
		for _, w := range r.Waves {
			compact = append(compact, fmt.Sprintf("%s%% %s %s", percent(w.Percent), w.State, counts(w)))
		}
		fmt.Fprintf(v.out, "          %s %s | %s\n", r.Release.Version, r.State, strings.Join(compact, " | "))
		return
	}
	if v.lines > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA", v.lines)
	}
	for _, row := range rows {
		fmt.Fprintf(v.out, "\x1b[2K%s\n", row)
	}
	v.lines = len(rows)
}

// leave lets the next output come below the waves.
func (v *view) leave() { v.lines, v.last = 0, "" }

const barWidth = 30

func waveLine(w stack.Wave) string {
	c := w.Counts
	bad := c["rolled_back"] + c["failed"] + c["silent"]
	busy := c["downloading"] + c["verified"] + c["staged"] + c["trying"]
	bar := ""
	add := func(n int, mark string) {
		if w.Members > 0 {
			bar += strings.Repeat(mark, n*barWidth/w.Members)
		}
	}
	add(c["committed"], "#")
	add(bad, "x")
	add(busy, ">")
	bar = bar[:min(len(bar), barWidth)]
	return fmt.Sprintf("          %5s %%  %-7s [%-*s]  %s", percent(w.Percent), w.State, barWidth, bar, counts(w))
}

func percent(p float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", p), ".0") }

// counts names the states that occur.
func counts(w stack.Wave) string {
	var parts []string
	for _, s := range states {
		if n := w.Counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(s, "_", " ")))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprintf("%d devices", w.Members)
	}
	return fmt.Sprintf("%d devices: %s", w.Members, strings.Join(parts, ", "))
}

// states in the order of a deployment.
var states = []string{"waiting", "downloading", "verified", "staged", "trying", "committed", "rolled_back", "failed", "silent", "unreached", "absent"}

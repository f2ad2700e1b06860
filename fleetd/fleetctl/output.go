package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"groundswell/internal/cli"
)

// printJSON writes fleetd's JSON, indented.
func printJSON(out io.Writer, raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("fleetd's answer cannot be read: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(out)
	return err
}

// show prints one object: as JSON, or as the table's single row.
func show[T any](g *Global, io cli.Streams, a *answer, t table[T]) error {
	if g.Output == "json" {
		return printJSON(io.Out, a.raw)
	}
	var item T
	if err := a.decode(&item); err != nil {
		return err
	}
	return t.print(io.Out, []T{item})
}

// showList prints many objects: as a JSON array, or as a table.
func showList[T any](g *Global, io cli.Streams, items []json.RawMessage, t table[T]) error {
	if g.Output == "json" {
		raw, err := json.Marshal(items)
		if err != nil {
			return err
		}
		return printJSON(io.Out, raw)
	}
	rows := make([]T, len(items))
	for i, raw := range items {
		if err := json.Unmarshal(raw, &rows[i]); err != nil {
			return fmt.Errorf("fleetd's answer cannot be read: %w", err)
		}
	}
	return t.print(io.Out, rows)
}

// table says how things of one kind are shown to people.
type table[T any] []column[T]

type column[T any] struct {
	title string
	cell  func(T) string
}

func (t table[T]) print(out io.Writer, rows []T) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, c := range t {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, c.title)
	}
	fmt.Fprintln(w)
	for _, row := range rows {
		for i, c := range t {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, orDash(clean(c.cell(row))))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// clean keeps texts from devices and operators from steering the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when shows a moment as its distance from now, which is what operators ask.
func when(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	d := time.Since(*t)
	suffix := " ago"
	if d < 0 {
		d, suffix = -d, " from now"
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds%s", int(d.Seconds()), suffix)
	case d < time.Hour:
		return fmt.Sprintf("%dm%s", int(d.Minutes()), suffix)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%s", int(d.Hours()), suffix)
	}
	return t.UTC().Format("2006-01-02")
}

// stamp shows a moment exactly, for what is compared with other logs.
func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// size shows a number of bytes.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit && exp < 4; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTP"[exp])
}

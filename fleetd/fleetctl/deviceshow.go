package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"groundswell/internal/cli"
	"groundswell/topics"
)

var deviceTable = table[device]{
	{"DEVICE", func(d device) string { return d.ID }},
	{"MODEL", func(d device) string { return d.Model }},
	{"HARDWARE", func(d device) string { return d.Hardware }},
	{"REGION", func(d device) string { return d.Region }},
	{"TIME ZONE", func(d device) string { return d.TimeZone }},
	{"VERSION", func(d device) string { return byComponent(d.Versions, func(v string) string { return v }) }},
	{"TARGET", func(d device) string { return byComponent(d.Targets, target.String) }},
	{"INSTALL", func(d device) string { return byComponent(d.Installs, func(i install) string { return i.State }) }},
	{"CONNECTED", func(d device) string { return yesNo(d.Connected) }},
	{"LAST CHECK-IN", func(d device) string { return when(d.LastCheckIn) }},
	{"LAST CONTACT", func(d device) string { return when(d.LastContact) }},
	{"COHORTS", func(d device) string { return strings.Join(d.Cohorts, ",") }},
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// byComponent shows the main component's value bare and the others by name.
func byComponent[V any](m map[string]V, text func(V) string) string {
	var parts []string
	if v, ok := m["system"]; ok {
		parts = append(parts, text(v))
	}
	for _, name := range sortedKeys(m) {
		if name != "system" {
			parts = append(parts, name+"="+text(m[name]))
		}
	}
	return strings.Join(parts, " ")
}

// String is the version, and what holds the device back from it.
func (t target) String() string {
	switch {
	case t.State == "paused":
		return t.Version + " (paused)"
	case !t.Reached:
		return t.Version + " (not its turn)"
	}
	return t.Version
}

// componentRow is one component of a device.
type componentRow struct {
	name    string
	running string
	target  *target
	install *install
}

var componentTable = table[componentRow]{
	{"COMPONENT", func(c componentRow) string { return c.name }},
	{"RUNS", func(c componentRow) string { return c.running }},
	{"TARGET", func(c componentRow) string {
		if c.target == nil {
			return ""
		}
		return c.target.String()
	}},
	{"BY ROLLOUT", func(c componentRow) string {
		if c.target == nil {
			return ""
		}
		return c.target.Rollout
	}},
	{"LAST STEP", func(c componentRow) string {
		if c.install == nil {
			return ""
		}
		text := c.install.State + " " + c.install.Version
		if c.install.Reason != "" {
			text += " (" + c.install.Reason + ")"
		}
		return text
	}},
	{"ATTEMPT", func(c componentRow) string {
		if c.install == nil {
			return ""
		}
		return strconv.Itoa(c.install.Attempt)
	}},
	{"AT", func(c componentRow) string {
		if c.install == nil {
			return ""
		}
		return when(c.install.At)
	}},
}

// components lists what a device runs, is to run or has tried to run.
func (d device) components() []componentRow {
	names := map[string]bool{}
	for name := range d.Versions {
		names[name] = true
	}
	for name := range d.Targets {
		names[name] = true
	}
	for name := range d.Installs {
		names[name] = true
	}
	var rows []componentRow
	for _, name := range slices.Sorted(maps.Keys(names)) {
		row := componentRow{name: name, running: d.Versions[name]}
		if t, ok := d.Targets[name]; ok {
			row.target = &t
		}
		if i, ok := d.Installs[name]; ok {
			row.install = &i
		}
		rows = append(rows, row)
	}
	return rows
}

// fact is one line about a device.
type fact struct{ name, text string }

var factTable = table[fact]{
	{"DEVICE", func(f fact) string { return f.name }},
	{"", func(f fact) string { return f.text }},
}

func (d device) facts() []fact {
	var labels []string
	for _, key := range sortedKeys(d.Labels) {
		labels = append(labels, key+"="+d.Labels[key])
	}
	var contact string
	switch {
	case d.Connected:
		contact = "connected to " + orDash(d.Node)
	case d.LastContact == nil:
		contact = "never seen"
	case d.Mode != "polling":
		contact = "not connected"
	default:
		contact = d.polls()
	}
	polling := ""
	if d.Polling > 0 {
		polling = "every " + (time.Duration(d.Polling) * time.Second).String()
	}
	checkIn := when(d.LastCheckIn)
	if d.CheckInMillis > 0 {
		checkIn += fmt.Sprintf(", took %d ms", d.CheckInMillis)
	}
	return []fact{
		{"id", d.ID},
		{"revision", strconv.FormatInt(d.Revision, 10)},
		{"model", strings.TrimSpace(d.Model + " " + d.Hardware)},
		{"region", d.Region},
		{"customer", d.Customer},
		{"time zone", d.TimeZone},
		{"labels", strings.Join(labels, " ")},
		{"polling, as set here", polling},
		{"cohorts", strings.Join(d.Cohorts, " ")},
		{"bucket", strconv.FormatInt(d.Bucket, 10)},
		{"contact", contact},
		{"last contact", when(d.LastContact)},
		{"last check-in", checkIn},
		{"battery", d.Heartbeat.battery()},
		{"agent", d.Agent},
	}
}

// polls says how often a device connects, and why, where that is not what was set.
func (d device) polls() string {
	text := d.Mode
	if s := d.Heartbeat.IntervalSeconds; s > 0 {
		text += ", at least every " + (time.Duration(s) * time.Second).String()
	}
	switch reason := d.Heartbeat.ModeReason; reason {
	case "":
	case topics.ModeReasonBattery:
		text += ", because its battery is low"
	default:
		text += ", because of " + reason
	}
	return text
}

func (h heartbeat) battery() string {
	if h.BatteryPercent == nil {
		return ""
	}
	text := fmt.Sprintf("%d %%", *h.BatteryPercent)
	if h.Charging {
		text += ", charging"
	}
	return text
}

type deviceShow struct {
	ID string `arg:"" help:"Device id."`
}

func (c *deviceShow) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	path := devicePath(c.ID)
	a, err := api.get(ctx, path, nil)
	if err != nil {
		return err
	}
	if g.Output == "json" {
		return printJSON(io.Out, a.raw)
	}
	var d device
	if err := a.decode(&d); err != nil {
		return err
	}
	if err := factTable.print(io.Out, d.facts()); err != nil {
		return err
	}
	if rows := d.components(); len(rows) > 0 {
		fmt.Fprintln(io.Out)
		if err := componentTable.print(io.Out, rows); err != nil {
			return err
		}
	}
	history, err := api.list(ctx, path+"/history", nil, 20)
	if err != nil || len(history) == 0 {
		return err
	}
	fmt.Fprintln(io.Out)
	return showList(g, io, history, historyTable)
}

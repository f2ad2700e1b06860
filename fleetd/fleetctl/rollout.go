package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"groundswell/internal/cli"
)

type rolloutCmd struct {
	Create  rolloutCreate  `cmd:"" help:"Draft a rollout of a release to cohorts."`
	Update  rolloutUpdate  `cmd:"" help:"Change a draft."`
	List    rolloutList    `cmd:"" help:"List rollouts."`
	Show    rolloutShow    `cmd:"" help:"Show a rollout and its waves."`
	Preview rolloutPreview `cmd:"" help:"Say what a rollout will cost: devices, bytes, money, and when."`
	Start   rolloutStart   `cmd:"" help:"Start a drafted rollout: its first wave opens."`
	Watch   rolloutWatch   `cmd:"" help:"Follow the waves until the rollout ends; exit code 3 unless it completed."`
	Pause   rolloutPause   `cmd:"" help:"Pause: nobody starts, nobody activates, until it is resumed."`
	Resume  rolloutResume  `cmd:"" help:"Resume a paused rollout."`
	Cancel  rolloutCancel  `cmd:"" help:"Cancel for good; devices keep what they run."`
	Revert  rolloutRevert  `cmd:"" help:"Bring the devices that took the release back to an older one."`
	Devices rolloutDevices `cmd:"" help:"List the devices of a rollout and their outcome."`
	Events  rolloutEvents  `cmd:"" help:"List what happened to a rollout."`
}

var rolloutTable = table[rollout]{
	{"ROLLOUT", func(r rollout) string { return r.ID }},
	{"RELEASE", func(r rollout) string { return r.Release.Name + " " + r.Release.Version }},
	{"KIND", func(r rollout) string { return r.Kind }},
	{"STATE", func(r rollout) string { return r.State }},
	{"COHORTS", func(r rollout) string { return strings.Join(r.Cohorts, ",") }},
	{"WAVE", func(r rollout) string { return r.progress() }},
	{"CREATED", func(r rollout) string { return when(r.CreatedAt) }},
	{"BY", func(r rollout) string { return r.CreatedBy }},
	{"REASON", func(r rollout) string { return r.Reason }},
}

var waveTable = table[wave]{
	{"WAVE", func(w wave) string { return strconv.Itoa(w.Index) }},
	{"SHARE", func(w wave) string { return strconv.FormatFloat(w.Percent, 'f', -1, 64) + " %" }},
	{"STATE", func(w wave) string { return w.State }},
	{"DEVICES", func(w wave) string { return strconv.Itoa(w.Members) }},
	{"WAITING", func(w wave) string { return strconv.Itoa(w.Counts.Waiting) }},
	{"BUSY", func(w wave) string { return strconv.Itoa(w.Counts.busy()) }},
	{"COMMITTED", func(w wave) string { return strconv.Itoa(w.Counts.Committed) }},
	{"ROLLED BACK", func(w wave) string { return strconv.Itoa(w.Counts.RolledBack) }},
	{"FAILED", func(w wave) string { return strconv.Itoa(w.Counts.Failed) }},
	{"SILENT", func(w wave) string { return strconv.Itoa(w.Counts.Silent + w.Counts.Unreached) }},
	{"ABSENT", func(w wave) string { return strconv.Itoa(w.Counts.Absent) }},
	{"OPENED", func(w wave) string { return when(w.OpenedAt) }},
	{"CLOSED", func(w wave) string { return when(w.ClosedAt) }},
	{"WAITS FOR", func(w wave) string { return w.Gate }},
}

var stoneTable = table[stone]{
	{"DEVICES", func(s stone) string { return strconv.Itoa(s.Devices) }},
	{"RUN", func(s stone) string { return s.From }},
	{"FIRST", func(s stone) string {
		var path []string
		for _, p := range s.Path {
			path = append(path, p.Name+" "+p.Version)
		}
		if path == nil {
			return "no release leads there"
		}
		return strings.Join(path, ", ")
	}},
	{"BY ROLLOUT", func(s stone) string {
		if s.Rollout == "" && len(s.Path) > 0 {
			return "none yet"
		}
		if s.Stays {
			return s.Rollout + ", where they stay"
		}
		return s.Rollout
	}},
}

// waits is what a rollout waits for none of whose waves has opened.
func (r rollout) waits() string {
	if len(r.Waves) > 0 && r.Waves[0].State == "pending" {
		return r.Waves[0].Gate
	}
	return ""
}

// progress is how many of the waves were opened.
func (r rollout) progress() string {
	opened := 0
	for _, w := range r.Waves {
		if w.State != "pending" {
			opened++
		}
	}
	return fmt.Sprintf("%d/%d", opened, len(r.Waves))
}

func (r rollout) total() counts {
	var t counts
	for _, w := range r.Waves {
		c := w.Counts
		t.Waiting += c.Waiting
		t.Downloading += c.Downloading
		t.Verified += c.Verified
		t.Staged += c.Staged
		t.Trying += c.Trying
		t.Committed += c.Committed
		t.Failed += c.Failed
		t.RolledBack += c.RolledBack
		t.Silent += c.Silent
		t.Unreached += c.Unreached
		t.Absent += c.Absent
	}
	return t
}

func rolloutPath(id string, action ...string) string {
	return strings.Join(append([]string{"/v1/rollouts", url.PathEscape(id)}, action...), "/")
}

type rolloutCreate struct {
	Release  string    `arg:"" help:"NAME@VERSION of a published release, for instance camera@1.1.0."`
	Cohorts  []string  `name:"cohort" required:"" help:"Target cohort; may be repeated." placeholder:"NAME"`
	Canary   string    `help:"A cohort that comes first, as a whole." placeholder:"COHORT"`
	From     string    `help:"Only devices that run such a version, for instance '<2.0'." placeholder:"CONSTRAINT"`
	Priority int64     `help:"Wins over rollouts of lower priority for the same component." default:"0"`
	StartAt  time.Time `help:"Start by itself at this time (RFC 3339)." format:"2006-01-02T15:04:05Z07:00" placeholder:"TIME"`
	Policy   string    `help:"JSON file with waves, gate, breaker, windows, download_windows, delta_coder, deadline; what it leaves out has fleetd's defaults." type:"existingfile" placeholder:"FILE"`
	Note     string    `help:"Why."`
	Start    bool      `help:"Start it at once."`
}

func (c *rolloutCreate) Run(ctx context.Context, io cli.Streams, g *Global) error {
	name, version, ok := strings.Cut(c.Release, "@")
	if !ok {
		return cli.UsageError("%q is not of the form NAME@VERSION", c.Release)
	}
	body := map[string]any{"release": map[string]string{"name": name, "version": version}, "cohorts": c.Cohorts}
	set := func(key string, value any, given bool) {
		if given {
			body[key] = value
		}
	}
	set("canary_cohort", c.Canary, c.Canary != "")
	set("from", c.From, c.From != "")
	set("priority", c.Priority, c.Priority != 0)
	set("start_at", c.StartAt, !c.StartAt.IsZero())
	set("note", c.Note, c.Note != "")
	if err := addPolicy(body, c.Policy); err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/rollouts", body: body, create: true})
	if err != nil {
		return err
	}
	var r rollout
	if err := a.decode(&r); err != nil {
		return err
	}
	r.warn(io)
	if c.Start {
		if a, err = api.do(ctx, request{method: http.MethodPost, path: rolloutPath(r.ID, "start"), body: struct{}{}, ifMatch: a.etag}); err != nil {
			return err
		}
	}
	return show(g, io, a, rolloutTable)
}

// warn says what fleetd warns of, beside the answer.
func (r rollout) warn(io cli.Streams) {
	for _, w := range r.Warnings {
		fmt.Fprintf(io.Err, "warning: %s\n", w)
	}
}

type rolloutUpdate struct {
	ID       string   `arg:"" help:"Rollout id."`
	Release  string   `help:"NAME@VERSION of a published release." placeholder:"RELEASE"`
	Cohorts  []string `name:"cohort" help:"Target cohort instead of those so far; may be repeated." placeholder:"NAME"`
	Canary   *string  `help:"A cohort that comes first, as a whole; empty: none." placeholder:"COHORT"`
	From     *string  `help:"Only devices that run such a version; empty: any." placeholder:"CONSTRAINT"`
	Priority *int64   `help:"Wins over rollouts of lower priority for the same component."`
	StartAt  *string  `help:"Start by itself at this time (RFC 3339), once it is started; empty: at once." placeholder:"TIME"`
	Policy   string   `help:"JSON file, as for create; it replaces the whole policy." type:"existingfile" placeholder:"FILE"`
	Note     *string  `help:"Why."`
	Guard
}

func (c *rolloutUpdate) Run(ctx context.Context, io cli.Streams, g *Global) error {
	body := map[string]any{}
	if c.Release != "" {
		name, version, ok := strings.Cut(c.Release, "@")
		if !ok {
			return cli.UsageError("%q is not of the form NAME@VERSION", c.Release)
		}
		body["release"] = map[string]string{"name": name, "version": version}
	}
	if len(c.Cohorts) > 0 {
		body["cohorts"] = c.Cohorts
	}
	given(body, "canary_cohort", c.Canary)
	given(body, "from", c.From)
	given(body, "priority", c.Priority)
	switch {
	case c.StartAt == nil:
	case *c.StartAt == "":
		body["start_at"] = nil
	default:
		at, err := time.Parse(time.RFC3339, *c.StartAt)
		if err != nil {
			return cli.UsageError("--start-at %q is not a time such as 2026-12-24T22:00:00Z", *c.StartAt)
		}
		body["start_at"] = at
	}
	given(body, "note", c.Note)
	if err := addPolicy(body, c.Policy); err != nil {
		return err
	}
	a, err := c.patch(ctx, g, rolloutPath(c.ID), body)
	if err != nil {
		return err
	}
	var r rollout
	if err := a.decode(&r); err != nil {
		return err
	}
	r.warn(io)
	return show(g, io, a, rolloutTable)
}

// addPolicy puts the policy in a file into a request.
func addPolicy(body map[string]any, file string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !json.Valid(data) {
		return fmt.Errorf("%s is not JSON", file)
	}
	body["policy"] = json.RawMessage(data)
	return nil
}

type rolloutList struct {
	State   string `help:"Only in this state."`
	Release string `help:"Only of this release."`
	Limit   int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *rolloutList) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/rollouts", url.Values{"state": {c.State}, "release": {c.Release}}, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, rolloutTable)
}

type rolloutShow struct {
	ID string `arg:"" help:"Rollout id."`
}

func (c *rolloutShow) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, rolloutPath(c.ID), nil)
	if err != nil {
		return err
	}
	if err := show(g, io, a, rolloutTable); err != nil || g.Output == "json" {
		return err
	}
	var r rollout
	if err := a.decode(&r); err != nil {
		return err
	}
	r.warn(io)
	fmt.Fprintln(io.Out)
	if err := waveTable.print(io.Out, r.Waves); err != nil {
		return err
	}
	if len(r.Stones) > 0 {
		fmt.Fprintln(io.Out, "\nWaiting for a stepping stone:")
		if err := stoneTable.print(io.Out, r.Stones); err != nil {
			return err
		}
	}
	if len(r.Deltas) > 0 {
		fmt.Fprintln(io.Out, "\nTo be moved, by the version that they run:")
		if err := deltaTable.print(io.Out, r.Deltas); err != nil {
			return err
		}
	}
	if r.Transfer != nil {
		fmt.Fprintln(io.Out, "\nWhere the bytes came from:")
		return transferTable.print(io.Out, r.Transfer.rows())
	}
	return nil
}

// change is what start, pause, resume and cancel have in common.
type change struct {
	ID string `arg:"" help:"Rollout id."`
	Guard
}

// Because is the reason of a change.
type Because struct {
	Reason string `help:"Why; it stands in the audit and in the rollout."`
}

func (c *change) do(ctx context.Context, io cli.Streams, g *Global, action, reason string) error {
	body := map[string]string{}
	if reason != "" {
		body["reason"] = reason
	}
	a, err := c.Guard.do(ctx, g, rolloutPath(c.ID), request{method: http.MethodPost, path: rolloutPath(c.ID, action), body: body})
	if err != nil {
		return err
	}
	return show(g, io, a, rolloutTable)
}

type (
	rolloutStart struct{ change }
	rolloutPause struct {
		change
		Because
	}
	rolloutResume struct{ change }
	rolloutCancel struct {
		change
		Because
	}
)

func (c *rolloutStart) Run(ctx context.Context, io cli.Streams, g *Global) error {
	return c.do(ctx, io, g, "start", "")
}

func (c *rolloutPause) Run(ctx context.Context, io cli.Streams, g *Global) error {
	return c.do(ctx, io, g, "pause", c.Reason)
}

func (c *rolloutResume) Run(ctx context.Context, io cli.Streams, g *Global) error {
	return c.do(ctx, io, g, "resume", "")
}

func (c *rolloutCancel) Run(ctx context.Context, io cli.Streams, g *Global) error {
	return c.do(ctx, io, g, "cancel", c.Reason)
}

type rolloutRevert struct {
	ID            string `arg:"" help:"Rollout id."`
	To            string `required:"" help:"The older version to go back to." placeholder:"VERSION"`
	IgnoreWindows bool   `help:"Do not wait for maintenance windows."`
	Policy        string `help:"JSON file with waves and gates, as for create; what it leaves out is faster than there." type:"existingfile" placeholder:"FILE"`
	Note          string `help:"Why."`
	Guard
}

func (c *rolloutRevert) Run(ctx context.Context, io cli.Streams, g *Global) error {
	body := map[string]any{"to": c.To, "ignore_windows": c.IgnoreWindows}
	if c.Note != "" {
		body["note"] = c.Note
	}
	if err := addPolicy(body, c.Policy); err != nil {
		return err
	}
	a, err := c.Guard.do(ctx, g, rolloutPath(c.ID), request{method: http.MethodPost, path: rolloutPath(c.ID, "revert"), create: true, body: body})
	if err != nil {
		return err
	}
	return show(g, io, a, rolloutTable)
}

type outcome struct {
	Device  string     `json:"device"`
	Wave    *int       `json:"wave"`
	State   string     `json:"state"`
	Attempt int        `json:"attempt"`
	From    string     `json:"from"`
	Outcome string     `json:"outcome"`
	Reason  string     `json:"reason"`
	At      *time.Time `json:"at"`
}

var outcomeTable = table[outcome]{
	{"DEVICE", func(o outcome) string { return o.Device }},
	{"WAVE", func(o outcome) string {
		if o.Wave == nil {
			return ""
		}
		return strconv.Itoa(*o.Wave)
	}},
	{"STATE", func(o outcome) string { return o.State }},
	{"ATTEMPT", func(o outcome) string { return strconv.Itoa(o.Attempt) }},
	{"FROM", func(o outcome) string { return o.From }},
	{"OUTCOME", func(o outcome) string { return o.Outcome }},
	{"REASON", func(o outcome) string { return o.Reason }},
	{"AT", func(o outcome) string { return when(o.At) }},
}

type rolloutDevices struct {
	ID    string `arg:"" help:"Rollout id."`
	Wave  string `help:"Only of this wave."`
	State string `help:"Only in this state."`
	Limit int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *rolloutDevices) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, rolloutPath(c.ID, "devices"), url.Values{"wave": {c.Wave}, "state": {c.State}}, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, outcomeTable)
}

type event struct {
	At     *time.Time `json:"at"`
	Kind   string     `json:"kind"`
	Actor  string     `json:"actor"`
	Detail any        `json:"detail"`
}

var eventTable = table[event]{
	{"AT", func(e event) string { return stamp(e.At) }},
	{"EVENT", func(e event) string { return e.Kind }},
	{"BY", func(e event) string { return e.Actor }},
	{"DETAIL", func(e event) string {
		if s, ok := e.Detail.(string); ok || e.Detail == nil {
			return s
		}
		raw, _ := json.Marshal(e.Detail) // came from JSON
		return string(raw)
	}},
}

type rolloutEvents struct {
	ID    string `arg:"" help:"Rollout id."`
	Limit int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *rolloutEvents) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, rolloutPath(c.ID, "events"), nil, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, eventTable)
}

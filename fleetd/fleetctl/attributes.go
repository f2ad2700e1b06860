package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"groundswell/internal/cli"
)

func devicePath(id string, part ...string) string {
	return strings.Join(append([]string{"/v1/devices", url.PathEscape(id)}, part...), "/")
}

// Attributes are what operators say about a device. Of those that are not
// given nothing is said; an empty text takes one away.
type Attributes struct {
	Region   *string           `help:"Region; a slug such as eu."`
	Customer *string           `help:"Customer; a slug."`
	TimeZone *string           `help:"IANA time zone, such as Europe/Berlin, in which its maintenance windows are." placeholder:"ZONE"`
	Labels   map[string]string `name:"label" help:"KEY=VALUE; may be repeated." placeholder:"KEY=VALUE" mapsep:"none"`
	Polling  *time.Duration    `help:"How often it connects, if it does not stay connected; 0s: its own setting." placeholder:"DURATION"`
}

func (a *Attributes) body() (map[string]any, error) {
	body := map[string]any{}
	given(body, "region", a.Region)
	given(body, "customer", a.Customer)
	given(body, "time_zone", a.TimeZone)
	if len(a.Labels) > 0 {
		labels := map[string]any{}
		for key, value := range a.Labels {
			labels[key] = value
		}
		body["labels"] = labels
	}
	if a.Polling != nil {
		if *a.Polling < 0 || *a.Polling%time.Second != 0 {
			return nil, cli.UsageError("--polling %v is not a number of whole seconds", *a.Polling)
		}
		body["polling_s"] = int64(*a.Polling / time.Second)
	}
	return body, nil
}

type deviceCreate struct {
	ID string `arg:"" help:"Device id, as its certificate will say."`
	Attributes
}

func (c *deviceCreate) Run(ctx context.Context, io cli.Streams, g *Global) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	// Without If-Match fleetd takes it for a registration.
	a, err := api.do(ctx, request{method: http.MethodPut, path: devicePath(c.ID), body: body})
	if err != nil {
		return err
	}
	return show(g, io, a, deviceTable)
}

type deviceSet struct {
	ID string `arg:"" help:"Device id."`
	Attributes
	Unlabel []string `help:"Key of a label to take away; may be repeated." placeholder:"KEY"`
	Guard
}

func (c *deviceSet) Run(ctx context.Context, io cli.Streams, g *Global) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	labels, _ := body["labels"].(map[string]any) // absent: none are set
	for _, key := range c.Unlabel {
		if _, both := labels[key]; both {
			return cli.UsageError("label %q is both set and taken away", key)
		}
		if labels == nil {
			labels = map[string]any{}
		}
		labels[key] = nil
		body["labels"] = labels
	}
	a, err := c.patch(ctx, g, devicePath(c.ID), body)
	if err != nil {
		return err
	}
	return show(g, io, a, deviceTable)
}

type logRow struct {
	Stored  *time.Time `json:"stored"`
	Rollout string     `json:"rollout"`
	Source  string     `json:"source"`
	Text    string     `json:"text"`
}

var logTable = table[logRow]{
	{"STORED", func(l logRow) string { return stamp(l.Stored) }},
	{"ROLLOUT", func(l logRow) string { return l.Rollout }},
	{"SOURCE", func(l logRow) string { return l.Source }},
	{"TEXT", func(l logRow) string { return l.Text }},
}

type deviceLogs struct {
	ID    string `arg:"" help:"Device id."`
	Limit int    `help:"At most so many, newest first; 0 means all." default:"20"`
}

func (c *deviceLogs) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, devicePath(c.ID, "logs"), nil, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, streams, items, logTable)
}

type command struct {
	ID        string     `json:"id"`
	Device    string     `json:"device"`
	Action    string     `json:"action"`
	Rollout   string     `json:"rollout"`
	CreatedBy string     `json:"created_by"`
	ExpiresAt *time.Time `json:"expires_at"`
	AckedAt   *time.Time `json:"acked_at"`
}

var commandTable = table[command]{
	{"COMMAND", func(c command) string { return c.ID }},
	{"DEVICE", func(c command) string { return c.Device }},
	{"ACTION", func(c command) string { return c.Action }},
	{"ROLLOUT", func(c command) string { return c.Rollout }},
	{"BY", func(c command) string { return c.CreatedBy }},
	{"EXPIRES", func(c command) string { return when(c.ExpiresAt) }},
	{"OBEYED", func(c command) string { return when(c.AckedAt) }},
}

type deviceCommand struct {
	ID      string        `arg:"" help:"Device id."`
	Action  string        `arg:"" enum:"report,logs,retry" help:"report: a heartbeat now; logs: its last log lines; retry: forget the failed attempts of a rollout."`
	Rollout string        `help:"The rollout, for retry." placeholder:"ID"`
	Expires time.Duration `help:"How long it may wait for the device." default:"1h"`
	Wait    time.Duration `help:"Wait so long until the device has obeyed; exit code 3 if it has not." placeholder:"DURATION"`
}

func (c *deviceCommand) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	if c.Action == "retry" && c.Rollout == "" {
		return cli.UsageError("retry needs --rollout")
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	body := map[string]any{"action": c.Action, "expires": c.Expires.String()}
	if c.Rollout != "" {
		body["rollout"] = c.Rollout
	}
	a, err := api.do(ctx, request{method: http.MethodPost, path: devicePath(c.ID, "commands"), body: body, create: true})
	if err != nil {
		return err
	}
	if c.Wait <= 0 {
		return show(g, streams, a, commandTable)
	}
	return awaitCommand(ctx, streams, g, api, a, c.Wait)
}

type commandStatus struct {
	Command string        `arg:"" help:"Command id, as device command printed it."`
	Wait    time.Duration `help:"Wait so long until the device has obeyed; exit code 3 if it has not." placeholder:"DURATION"`
}

func (c *commandStatus) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, "/v1/commands/"+url.PathEscape(c.Command), nil)
	if err != nil {
		return err
	}
	if c.Wait <= 0 {
		return show(g, streams, a, commandTable)
	}
	return awaitCommand(ctx, streams, g, api, a, c.Wait)
}

var errNotObeyed = errors.New("the device has not obeyed yet; device command-status shows when it has")

// awaitCommand looks at a command until the device has obeyed, or the time is
// up.
func awaitCommand(ctx context.Context, streams cli.Streams, g *Global, api *client, a *answer, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		var c command
		if err := a.decode(&c); err != nil {
			return err
		}
		if c.AckedAt != nil {
			return show(g, streams, a, commandTable)
		}
		if time.Now().After(deadline) {
			if err := show(g, streams, a, commandTable); err != nil {
				return err
			}
			return cli.Exit(exitUnwanted, errNotObeyed)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Second, max(50*time.Millisecond, time.Until(deadline)))):
		}
		var err error
		if a, err = api.get(ctx, "/v1/commands/"+url.PathEscape(c.ID), nil); err != nil {
			return err
		}
	}
}

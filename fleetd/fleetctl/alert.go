package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"groundswell/internal/cli"
)

type alert struct {
	ID             int64      `json:"id"`
	Revision       int64      `json:"revision"`
	Kind           string     `json:"kind"`
	Object         string     `json:"object"`
	Message        string     `json:"message"`
	Count          int64      `json:"count"`
	FirstAt        *time.Time `json:"first_at"`
	LastAt         *time.Time `json:"last_at"`
	State          string     `json:"state"`
	AcknowledgedAt *time.Time `json:"acknowledged_at"`
	AcknowledgedBy string     `json:"acknowledged_by"`
	Note           string     `json:"note"`
}

var alertTable = table[alert]{
	{"ID", func(a alert) string { return strconv.FormatInt(a.ID, 10) }},
	{"ALERT", func(a alert) string { return a.Kind }},
	{"OBJECT", func(a alert) string { return a.Object }},
	{"STATE", func(a alert) string { return a.State }},
	{"COUNT", func(a alert) string { return strconv.FormatInt(a.Count, 10) }},
	{"FIRST", func(a alert) string { return when(a.FirstAt) }},
	{"LAST", func(a alert) string { return when(a.LastAt) }},
	{"MESSAGE", func(a alert) string { return a.Message }},
	{"KNOWN TO", func(a alert) string { return a.AcknowledgedBy }},
	{"NOTE", func(a alert) string { return a.Note }},
}

type alertCmd struct {
	List        alertList        `cmd:"" help:"List them."`
	Show        alertShow        `cmd:"" help:"Show one."`
	Acknowledge alertAcknowledge `cmd:"" help:"Say that you know of it; it stays until it is cleared."`
	Clear       alertClear       `cmd:"" help:"Say that it is over; seen again, it is a new one."`
}

type alertList struct {
	State string `help:"Only these: open or acknowledged." enum:",open,acknowledged" default:"" placeholder:"STATE"`
	Limit int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *alertList) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.State != "" {
		query.Set("state", c.State)
	}
	items, err := api.list(ctx, "/v1/alerts", query, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, alertTable)
}

func alertPath(id int64, action string) string {
	return "/v1/alerts/" + strconv.FormatInt(id, 10) + action
}

type alertShow struct {
	ID int64 `arg:"" help:"Its number, as listed."`
}

func (c *alertShow) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, alertPath(c.ID, ""), nil)
	if err != nil {
		return err
	}
	return show(g, io, a, alertTable)
}

type alertAcknowledge struct {
	ID   int64  `arg:"" help:"Its number, as listed."`
	Note string `help:"For the others who look after the fleet."`
	Guard
}

func (c *alertAcknowledge) Run(ctx context.Context, io cli.Streams, g *Global) error {
	a, err := c.Guard.do(ctx, g, alertPath(c.ID, ""), request{method: http.MethodPost, path: alertPath(c.ID, "/acknowledge"), body: map[string]any{"note": c.Note}})
	if err != nil {
		return err
	}
	return show(g, io, a, alertTable)
}

type alertClear struct {
	ID int64 `arg:"" help:"Its number, as listed."`
	Guard
}

func (c *alertClear) Run(ctx context.Context, io cli.Streams, g *Global) error {
	_, err := c.Guard.do(ctx, g, alertPath(c.ID, ""), request{method: http.MethodDelete, path: alertPath(c.ID, "")})
	if err != nil || g.Output == "json" {
		return err
	}
	_, err = fmt.Fprintf(io.Out, "alert %d is cleared\n", c.ID)
	return err
}

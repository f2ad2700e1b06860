package main

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"groundswell/internal/cli"
)

type auditRow struct {
	At     *time.Time `json:"at"`
	Actor  string     `json:"actor"`
	Action string     `json:"action"`
	Object string     `json:"object"`
}

var auditTable = table[auditRow]{
	{"AT", func(r auditRow) string { return stamp(r.At) }},
	{"ACTOR", func(r auditRow) string { return r.Actor }},
	{"ACTION", func(r auditRow) string { return r.Action }},
	{"OBJECT", func(r auditRow) string { return r.Object }},
}

// historyRow is one step of a device in a rollout.
type historyRow struct {
	At      *time.Time `json:"at"`
	Rollout string     `json:"rollout"`
	State   string     `json:"state"`
	Attempt int        `json:"attempt"`
	From    string     `json:"from"`
	Target  string     `json:"target"`
	Running string     `json:"running"`
	Reason  string     `json:"reason"`
}

var historyTable = table[historyRow]{
	{"AT", func(r historyRow) string { return stamp(r.At) }},
	{"ROLLOUT", func(r historyRow) string { return r.Rollout }},
	{"STATE", func(r historyRow) string { return r.State }},
	{"ATTEMPT", func(r historyRow) string { return strconv.Itoa(r.Attempt) }},
	{"FROM", func(r historyRow) string { return r.From }},
	{"TO", func(r historyRow) string { return r.Target }},
	{"RUNNING", func(r historyRow) string { return r.Running }},
	{"REASON", func(r historyRow) string { return r.Reason }},
}

type auditCmd struct {
	Object string `help:"Only changes of this object."`
	Actor  string `help:"Only changes by this operator."`
	Limit  int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *auditCmd) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/audit", url.Values{"object": {c.Object}, "actor": {c.Actor}}, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, auditTable)
}

type who struct {
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Issuer  string     `json:"issuer"`
	Expires *time.Time `json:"expires"`
}

var whoTable = table[who]{
	{"NAME", func(w who) string { return w.Name }},
	{"ROLE", func(w who) string { return w.Role }},
	{"ISSUER", func(w who) string { return w.Issuer }},
	{"TOKEN EXPIRES", func(w who) string { return when(w.Expires) }},
}

type whoamiCmd struct{}

func (c *whoamiCmd) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, "/v1/whoami", nil)
	if err != nil {
		return err
	}
	return show(g, io, a, whoTable)
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"

	"groundswell/internal/cli"
)

type cohortCmd struct {
	Create   cohortCreate   `cmd:"" help:"Create a cohort: a selector over device attributes, or a list of devices."`
	Update   cohortUpdate   `cmd:"" help:"Change a cohort's selector, devices or description."`
	Delete   cohortDelete   `cmd:"" help:"Delete a cohort that no rollout names."`
	List     cohortList     `cmd:"" help:"List cohorts."`
	Show     cohortShow     `cmd:"" help:"Show a cohort, with --members its devices."`
	Manifest cohortManifest `cmd:"" help:"Print the signed manifest of a cohort, byte for byte as devices get it."`
}

var cohortTable = table[cohort]{
	{"COHORT", func(c cohort) string { return c.Name }},
	{"MEMBERS", func(c cohort) string { return strconv.Itoa(c.Members) }},
	{"SELECTOR", func(c cohort) string {
		if c.Selector == "" && len(c.Devices) > 0 {
			return fmt.Sprintf("(%d ids)", len(c.Devices))
		}
		return c.Selector
	}},
	{"MANIFEST", func(c cohort) string { return strconv.FormatInt(c.ManifestVersion, 10) }},
	{"PUBLISHED", func(c cohort) string { return when(c.PublishedAt) }},
	{"DESCRIPTION", func(c cohort) string { return c.Description }},
}

type cohortCreate struct {
	Name        string   `arg:"" help:"The cohort's name."`
	Selector    string   `help:"Label selector, for instance 'model in (cam-a,cam-b),region=eu'." xor:"members"`
	Devices     []string `name:"device" help:"A device id; may be repeated." xor:"members" placeholder:"ID"`
	Description string   `help:"What it is for."`
}

func (c *cohortCreate) Run(ctx context.Context, io cli.Streams, g *Global) error {
	if c.Selector == "" && len(c.Devices) == 0 {
		return cli.UsageError("give --selector or --device")
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	body := map[string]any{"name": c.Name}
	if c.Description != "" {
		body["description"] = c.Description
	}
	if c.Selector != "" {
		body["selector"] = c.Selector
	} else {
		body["devices"] = c.Devices
	}
	a, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/cohorts", body: body, create: true})
	if err != nil {
		return err
	}
	return show(g, io, a, cohortTable)
}

func cohortPath(name string, part ...string) string {
	return strings.Join(append([]string{"/v1/cohorts", url.PathEscape(name)}, part...), "/")
}

type cohortUpdate struct {
	Name        string   `arg:"" help:"The cohort's name."`
	Selector    string   `help:"Label selector instead of what chose the members so far." xor:"members"`
	Devices     []string `name:"device" help:"A device id; may be repeated. These instead of what chose the members so far." xor:"members" placeholder:"ID"`
	Description *string  `help:"What it is for."`
	Guard
}

func (c *cohortUpdate) Run(ctx context.Context, io cli.Streams, g *Global) error {
	body := map[string]any{}
	given(body, "description", c.Description)
	if c.Selector != "" {
		body["selector"] = c.Selector
	}
	if len(c.Devices) > 0 {
		body["devices"] = c.Devices
	}
	a, err := c.patch(ctx, g, cohortPath(c.Name), body)
	if err != nil {
		return err
	}
	return show(g, io, a, cohortTable)
}

type cohortDelete struct {
	Name string `arg:"" help:"The cohort's name."`
	Guard
}

func (c *cohortDelete) Run(ctx context.Context, io cli.Streams, g *Global) error {
	_, err := c.Guard.do(ctx, g, cohortPath(c.Name), request{method: http.MethodDelete, path: cohortPath(c.Name)})
	if err != nil || g.Output == "json" {
		return err
	}
	_, err = fmt.Fprintf(io.Out, "cohort %s is deleted\n", c.Name)
	return err
}

type cohortManifest struct {
	Name string `arg:"" help:"The cohort's name."`
}

func (c *cohortManifest) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, cohortPath(c.Name, "manifest"), nil)
	if err != nil {
		return err
	}
	_, err = io.Out.Write(a.raw)
	return err
}

type cohortList struct{}

func (c *cohortList) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/cohorts", nil, 0)
	if err != nil {
		return err
	}
	return showList(g, io, items, cohortTable)
}

type cohortShow struct {
	Name    string `arg:"" help:"The cohort's name."`
	Members bool   `help:"List its devices."`
	Limit   int    `help:"At most so many members; 0 means all." default:"100"`
}

func (c *cohortShow) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	if c.Members {
		items, err := api.list(ctx, "/v1/devices", url.Values{"cohort": {c.Name}}, c.Limit)
		if err != nil {
			return err
		}
		return showList(g, io, items, deviceTable)
	}
	a, err := api.get(ctx, cohortPath(c.Name), nil)
	if err != nil {
		return err
	}
	return show(g, io, a, cohortTable)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"groundswell/internal/cli"
)

type rolloutPreview struct {
	ID         string   `arg:"" help:"Rollout id; a draft does."`
	PricePerGB *float64 `name:"price-per-gb" help:"Price of 10^9 bytes, instead of the one that fleetd is configured with." placeholder:"PRICE"`
}

// preview is what a rollout will cost.
type preview struct {
	Rollout  string          `json:"rollout"`
	Devices  int             `json:"devices"`
	Unknown  int             `json:"unknown_devices"`
	Bytes    int64           `json:"bytes"`
	Cost     *cost           `json:"cost"`
	Versions []previewSource `json:"versions"`
	Hours    int64           `json:"step_hours"`
	Steps    []previewStep   `json:"steps"`
	Peak     int64           `json:"peak_bytes_per_hour"`
	Ends     int64           `json:"ends_after_s"`
}

type cost struct {
	Amount   float64 `json:"amount"`
	Currency string  `json:"currency"`
}

type previewSource struct {
	From    string `json:"from"`
	Devices int    `json:"devices"`
	Delta   string `json:"delta"`
	Way     string `json:"way"`
	Each    int64  `json:"bytes_each"`
	Bytes   int64  `json:"bytes"`
}

type previewStep struct {
	Hour  int64 `json:"hour"`
	Bytes int64 `json:"bytes"`
}

var previewTable = table[preview]{
	{"ROLLOUT", func(p preview) string { return p.Rollout }},
	{"DEVICES", func(p preview) string { return strconv.Itoa(p.Devices) }},
	{"BYTES", func(p preview) string { return size(p.Bytes) }},
	{"COST", func(p preview) string {
		if p.Cost == nil {
			return "no price is known"
		}
		return fmt.Sprintf("%.2f %s", p.Cost.Amount, p.Cost.Currency)
	}},
	{"PEAK PER HOUR", func(p preview) string { return size(p.Peak) }},
	{"TAKES AT LEAST", func(p preview) string { return (time.Duration(p.Ends) * time.Second).String() }},
}

var previewSourceTable = table[previewSource]{
	{"RUN", func(s previewSource) string { return firstOf(s.From, "not known") }},
	{"DEVICES", func(s previewSource) string { return strconv.Itoa(s.Devices) }},
	{"DELTA", func(s previewSource) string { return s.Delta }},
	{"BY", func(s previewSource) string { return s.Way }},
	{"EACH", func(s previewSource) string { return size(s.Each) }},
	{"BYTES", func(s previewSource) string { return size(s.Bytes) }},
}

var previewStepTable = table[previewStep]{
	{"FROM HOUR", func(s previewStep) string { return strconv.FormatInt(s.Hour, 10) }},
	{"BYTES", func(s previewStep) string { return size(s.Bytes) }},
}

func (c *rolloutPreview) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.PricePerGB != nil {
		query.Set("price_per_gb", strconv.FormatFloat(*c.PricePerGB, 'g', 12, 64))
	}
	a, err := api.get(ctx, rolloutPath(c.ID, "preview"), query)
	if err != nil {
		return err
	}
	if err := show(g, io, a, previewTable); err != nil || g.Output == "json" {
		return err
	}
	var p preview
	if err := a.decode(&p); err != nil {
		return err
	}
	fmt.Fprintln(io.Out)
	if err := previewSourceTable.print(io.Out, p.Versions); err != nil {
		return err
	}
	unit := "hour"
	if p.Hours > 1 {
		unit = fmt.Sprintf("%d hours", p.Hours)
	}
	fmt.Fprintf(io.Out, "\nReceived in each %s, if every wave opens as soon as it may:\n", unit)
	return previewStepTable.print(io.Out, p.Steps)
}

package main

import (
	"context"
	"strconv"
	"time"

	"groundswell/internal/cli"
)

type alert struct {
	Kind    string     `json:"kind"`
	Object  string     `json:"object"`
	Message string     `json:"message"`
	Count   int64      `json:"count"`
	FirstAt *time.Time `json:"first_at"`
	LastAt  *time.Time `json:"last_at"`
}

var alertTable = table[alert]{
	{"ALERT", func(a alert) string { return a.Kind }},
	{"OBJECT", func(a alert) string { return a.Object }},
	{"COUNT", func(a alert) string { return strconv.FormatInt(a.Count, 10) }},
	{"FIRST", func(a alert) string { return when(a.FirstAt) }},
	{"LAST", func(a alert) string { return when(a.LastAt) }},
	{"MESSAGE", func(a alert) string { return a.Message }},
}

type alertsCmd struct {
	Limit int `help:"At most so many; 0 means all." default:"100"`
}

func (c *alertsCmd) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/alerts", nil, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, alertTable)
}

// deadLetter is a message of a device that fleetd could not store.
type deadLetter struct {
	ID       int64      `json:"id"`
	At       *time.Time `json:"at"`
	Topic    string     `json:"topic"`
	Payload  []byte     `json:"payload_b64"`
	Consumer string     `json:"consumer"`
	Reason   string     `json:"reason"`
}

var deadLetterTable = table[deadLetter]{
	{"ID", func(d deadLetter) string { return strconv.FormatInt(d.ID, 10) }},
	{"AT", func(d deadLetter) string { return stamp(d.At) }},
	{"TOPIC", func(d deadLetter) string { return d.Topic }},
	{"SIZE", func(d deadLetter) string { return size(int64(len(d.Payload))) }},
	{"FOR", func(d deadLetter) string { return d.Consumer }},
	{"REASON", func(d deadLetter) string { return d.Reason }},
}

type deadLettersCmd struct {
	Limit int `help:"At most so many, newest first; 0 means all." default:"100"`
}

func (c *deadLettersCmd) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/dead-letters", nil, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, deadLetterTable)
}

package main

import (
	"context"
	"strconv"
	"time"

	"groundswell/internal/cli"
)

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

package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"groundswell/internal/cli"
)

type deviceCmd struct {
	List    deviceList    `cmd:"" help:"List devices, filtered."`
	Show    deviceShow    `cmd:"" help:"Show one device and what it did."`
	Create  deviceCreate  `cmd:"" help:"Register a device before its first contact."`
	Set     deviceSet     `cmd:"" help:"Change a device's region, customer, time zone, labels or polling interval."`
	Import  deviceImport  `cmd:"" help:"Register or change devices from a CSV or JSON file."`
	Logs    deviceLogs    `cmd:"" help:"List the log texts that a device sent."`
	Command deviceCommand `cmd:"" help:"Ask a device for something once."`
	Status  commandStatus `cmd:"" name:"command-status" help:"Show what became of a command."`
}

type deviceList struct {
	Cohort    string `help:"Members of this cohort."`
	Model     string `help:"Of this model."`
	Hardware  string `help:"Of this hardware revision."`
	Region    string `help:"In this region."`
	Customer  string `help:"Of this customer."`
	Component string `help:"The component that --version and --below speak of."`
	Version   string `help:"Running exactly this version." placeholder:"VERSION"`
	Below     string `help:"Running a version below this one." placeholder:"VERSION"`
	State     string `help:"In this state of a deployment."`
	Rollout   string `help:"The rollout that --state speaks of; any running one when absent." placeholder:"ID"`
	Connected string `help:"true or false." enum:",true,false" default:""`
	Limit     int    `help:"At most so many; 0 means all." default:"100"`
}

func (c *deviceList) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/devices", url.Values{
		"cohort": {c.Cohort}, "model": {c.Model}, "hardware": {c.Hardware}, "region": {c.Region},
		"customer": {c.Customer}, "component": {c.Component}, "version": {c.Version}, "below": {c.Below},
		"state": {c.State}, "rollout": {c.Rollout}, "connected": {c.Connected},
	}, c.Limit)
	if err != nil {
		return err
	}
	return showList(g, io, items, deviceTable)
}

// importBatch is how many devices one request may carry.
const importBatch = 10_000

type deviceImport struct {
	File string `arg:"" help:"CSV with a header (id, region, customer, time_zone, polling_s; further columns are labels), or JSON {\"devices\": [...]}; - is standard input."`
}

func (c *deviceImport) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	in := streams.In
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	var devices []any
	if strings.HasSuffix(strings.ToLower(c.File), ".json") {
		var body struct {
			Devices []any `json:"devices"`
		}
		dec := json.NewDecoder(in)
		dec.UseNumber()
		if err := dec.Decode(&body); err != nil {
			return fmt.Errorf("%s: %w", c.File, err)
		}
		devices = body.Devices
	} else if devices, err = readCSV(in); err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	var total struct{ Created, Updated int }
	for len(devices) > 0 {
		batch := devices[:min(importBatch, len(devices))]
		devices = devices[len(batch):]
		a, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/devices/import",
			body: map[string]any{"devices": batch}, create: true})
		if err != nil {
			return err
		}
		var done struct{ Created, Updated int }
		if err := a.decode(&done); err != nil {
			return err
		}
		total.Created += done.Created
		total.Updated += done.Updated
	}
	if g.Output == "json" {
		return json.NewEncoder(streams.Out).Encode(map[string]int{"created": total.Created, "updated": total.Updated})
	}
	_, err = fmt.Fprintf(streams.Out, "%d devices created, %d updated\n", total.Created, total.Updated)
	return err
}

// readCSV reads devices; the first line names the columns.
func readCSV(in io.Reader) ([]any, error) {
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("no header line: %w", err)
	}
	idColumn := -1
	for i, name := range header {
		header[i] = strings.TrimSpace(name)
		if header[i] == "id" {
			idColumn = i
		}
	}
	if idColumn < 0 {
		return nil, errors.New(`line 1: no column "id"`)
	}
	var devices []any
	for {
		row, err := r.Read()
		if err == io.EOF {
			return devices, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := r.FieldPos(0)
		d, labels := map[string]any{}, map[string]string{}
		for i, value := range row {
			value = strings.TrimSpace(value)
			switch name := header[i]; {
			case value == "":
			case name == "polling_s":
				n, err := strconv.Atoi(value)
				if err != nil {
					return nil, fmt.Errorf("line %d: polling_s %q is not a number", line, value)
				}
				d[name] = n
			case name == "id" || name == "region" || name == "customer" || name == "time_zone":
				d[name] = value
			default:
				labels[name] = value
			}
		}
		if len(labels) > 0 {
			d["labels"] = labels
		}
		devices = append(devices, d)
	}
}

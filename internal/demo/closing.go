package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// closing looks at what the whole fleet runs, and at the check-ins.
func (d *demo) closing(ctx context.Context, result *Result) error {
	if err := d.awaitFleet(ctx, d.agents, goodVersion); err != nil {
		return err
	}
	devices, err := d.stack.Devices(ctx, nil)
	if err != nil {
		return err
	}
	result.Versions = map[string]int{}
	var checkIns []int64
	for _, dev := range devices {
		result.Versions[dev.Versions["system"]]++
		if dev.CheckInMillis > 0 {
			checkIns = append(checkIns, dev.CheckInMillis)
		}
	}
	result.CheckIn = quantiles(checkIns)
	if err := result.check(); err != nil {
		return err
	}
	if err := checkFleet(devices, d.agents); err != nil {
		return err
	}
	// Success is a verified boot: each device launched the version itself.
	booted, err := d.activated(goodVersion)
	if err != nil {
		return err
	}
	if len(booted) != d.agents {
		return fmt.Errorf("%d of %d devices launched %s", len(booted), d.agents, goodVersion)
	}
	return d.checkHistory(ctx)
}

// checkHistory asks InfluxDB, as an analyst would, for the committed updates.
func (d *demo) checkHistory(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	flux := fmt.Sprintf(`from(bucket: "groundswell/autogen")
		|> range(start: -1h)
		|> filter(fn: (r) => r._measurement == "status" and r._field == "device" and r.state == "committed" and r.version == %q)
		|> group() |> count()`, goodVersion)
	for {
		answer, err := d.stack.Influx.Query(ctx, flux)
		count := lastNumber(answer)
		if count == d.agents {
			d.say("InfluxDB holds the %d committed updates", count)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("InfluxDB holds %d of %d committed updates (%v)", count, d.agents, err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// lastNumber is the last column of the last row of a Flux answer in CSV.
func lastNumber(answer string) int {
	rows := strings.Fields(answer)
	if len(rows) == 0 {
		return 0
	}
	columns := strings.Split(rows[len(rows)-1], ",")
	n, err := strconv.Atoi(columns[len(columns)-1])
	if err != nil {
		return 0 // the header: no rows yet
	}
	return n
}

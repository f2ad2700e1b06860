package main

import (
	"context"
	"fmt"
	"strings"

	"groundswell/internal/devstack/stack"
)

// The fleet: three models, two regions in two time zones, every fourth device
// on battery.
var (
	models  = []string{"cam-a", "cam-b", "gate-c"}
	regions = []struct{ name, zone string }{{"eu", "Europe/Berlin"}, {"us", "America/New_York"}}
)

// pollSeconds is how often a battery device of the demo connects.
const pollSeconds = 3

func fleet(n int) []stack.AgentOptions {
	var devices []stack.AgentOptions
	for i := range n {
		region := regions[i%len(regions)]
		devices = append(devices, stack.AgentOptions{
			ID: fmt.Sprintf("dev-%03d", i+1), Model: models[i%len(models)], Hardware: "rev-a",
			Region: region.name, TimeZone: region.zone, Battery: i%4 == 3, PollSeconds: pollSeconds,
		})
	}
	return devices
}

// register tells fleetd what operators know about the devices, by fleetctl.
func (d *demo) register(ctx context.Context, devices []stack.AgentOptions) error {
	var csv strings.Builder
	csv.WriteString("id,region,time_zone,polling_s\n")
	for _, dev := range devices {
		polling := ""
		if dev.Battery {
			polling = fmt.Sprint(dev.PollSeconds)
		}
		fmt.Fprintf(&csv, "%s,%s,%s,%s\n", dev.ID, dev.Region, dev.TimeZone, polling)
	}
	file, err := d.stack.WriteFile("devices.csv", csv.String())
	if err != nil {
		return err
	}
	if _, err := d.stack.Fleetctl(ctx, "device", "import", file); err != nil {
		return err
	}
	for _, r := range regions {
		if _, err := d.stack.Fleetctl(ctx, "cohort", "create", r.name, "--selector", "region="+r.name,
			"--description", "everything in "+r.name); err != nil {
			return err
		}
	}
	return nil
}

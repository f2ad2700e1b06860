package main

import (
	"fmt"
	"strings"

	"groundswell/internal/devstack/stack"
)

// What the demo claims, held against what fleetd, the devices and InfluxDB say.
// Each check names the first thing that did not come true.

// checkFleet is the fleet's make-up as fleetd knows it: every fourth device on
// battery, and every model, region and time zone there.
func checkFleet(devices []stack.Device, want int) error {
	if len(devices) != want {
		return fmt.Errorf("fleetd knows %d devices, started were %d", len(devices), want)
	}
	battery, seen := 0, map[string]bool{}
	for _, d := range devices {
		if d.Mode == "polling" {
			battery++
		}
		seen["model "+d.Model], seen["region "+d.Region], seen["time zone "+d.TimeZone] = true, true, true
	}
	if battery != want/4 {
		return fmt.Errorf("%d devices run in battery mode, expected %d", battery, want/4)
	}
	var wanted []string
	for _, m := range models {
		wanted = append(wanted, "model "+m)
	}
	for _, r := range regions {
		wanted = append(wanted, "region "+r.name, "time zone "+r.zone)
	}
	for _, w := range wanted {
		if !seen[w] {
			return fmt.Errorf("no device of the fleet has the %s", w)
		}
	}
	return nil
}

// checkTurns holds the waves against the order in which they may open: none
// before the one before it has passed.
func checkTurns(r *stack.Rollout) error {
	for i, w := range r.Waves {
		if w.OpenedAt == nil || i == 0 {
			continue
		}
		before := r.Waves[i-1]
		if before.State != "passed" || before.ClosedAt == nil || w.OpenedAt.Before(*before.ClosedAt) {
			return fmt.Errorf("wave %d of %s opened before wave %d had passed", i, r.Release.Version, i-1)
		}
	}
	return nil
}

// checkGood is the promise about a good release: every wave passed in its turn,
// and every device committed it at the first attempt.
func checkGood(r *stack.Rollout, devices int, delta stack.Delta) error {
	if r.State != "completed" || r.Count("committed") != devices {
		return fmt.Errorf("rollout of %s is %s (%s) with %d of %d devices committed",
			r.Release.Version, r.State, r.Reason, r.Count("committed"), devices)
	}
	if n := r.Count("rolled_back", "failed", "silent", "unreached"); n > 0 {
		return fmt.Errorf("rollout of %s: %d devices did not take it", r.Release.Version, n)
	}
	for i, w := range r.Waves {
		if w.State != "passed" || w.OpenedAt == nil || w.ClosedAt == nil {
			return fmt.Errorf("rollout of %s is completed, but its wave %d is %s", r.Release.Version, i, w.State)
		}
	}
	if err := checkTransfer(r, devices); err != nil {
		return err
	}
	if err := checkThrough(r, devices, delta); err != nil {
		return err
	}
	return checkTurns(r)
}

// checkTransfer is the promise about bytes: every device took the version by a delta,
// and none fetched the artifact as it is.
func checkTransfer(r *stack.Rollout, devices int) error {
	if t := r.Transfer; t.Devices != int64(devices) || t.Delta == 0 || t.Saved == 0 || t.Full > 0 || t.Saved < 4*t.Origin {
		return fmt.Errorf("rollout of %s: it did not go by delta: %+v", r.Release.Version, t)
	}
	return nil
}

// checkStopped is the first half of the promise about a bad release: the breaker,
// and nothing else, paused it within its canary wave, and no device kept it.
func checkStopped(r *stack.Rollout) error {
	if r.State != "paused" || !strings.HasPrefix(r.Reason, "breaker:") {
		return fmt.Errorf("rollout of %s is %s (%s), expected that the breaker pauses it", r.Release.Version, r.State, r.Reason)
	}
	for i, w := range r.Waves {
		if i > 0 && w.OpenedAt != nil {
			return fmt.Errorf("rollout of %s: wave %d opened although the canary wave failed", r.Release.Version, i)
		}
	}
	if r.Count("rolled_back") == 0 {
		return fmt.Errorf("rollout of %s: no device reported that it rolled back", r.Release.Version)
	}
	if n := r.Count("committed"); n > 0 {
		return fmt.Errorf("rollout of %s: %d devices committed the bad version", r.Release.Version, n)
	}
	return nil
}

// checkCanaries is the other half: whoever activated the bad version belongs to
// the canary wave and rolled back by itself. activated are the devices that
// launched it, by their own logs.
func checkCanaries(outcomes []stack.Outcome, activated []string) error {
	by := map[string]stack.Outcome{}
	for _, o := range outcomes {
		by[o.Device] = o
	}
	for _, id := range activated {
		o := by[id]
		switch {
		case o.Wave == nil || *o.Wave != 0:
			return fmt.Errorf("%s activated the bad version although it is not in the canary wave", id)
		case o.State != "rolled_back":
			return fmt.Errorf("%s activated the bad version and is %s, expected that it rolled back", id, o.State)
		}
	}
	if len(activated) == 0 {
		return fmt.Errorf("no device ever activated the bad version")
	}
	return nil
}

// check holds the figures of a demo that went through against what they must
// hold: nothing of it is left out.
func (r *Result) check() error {
	switch {
	case len(r.Rollouts) != 2:
		return fmt.Errorf("the result has %d rollouts, expected 2", len(r.Rollouts))
	case len(r.Versions) != 1 || r.Versions[goodVersion] != r.Devices:
		return fmt.Errorf("the devices run %v at the end, expected %d with %s", r.Versions, r.Devices, goodVersion)
	case r.CheckIn.Samples != r.Devices:
		return fmt.Errorf("check-ins were measured on %d of %d devices", r.CheckIn.Samples, r.Devices)
	case r.PauseToDeviceMillis <= 0:
		return fmt.Errorf("the time from the pause to the last device was not measured")
	}
	return nil
}

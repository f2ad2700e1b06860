package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"groundswell/internal/devstack/stack"
)

// The three versions of the firmware.
const (
	oldVersion  = "1.0.0"
	goodVersion = "1.1.0"
	badVersion  = "1.2.0"
	release     = "camera"
)

type demo struct {
	stack  *stack.Stack
	say    func(string, ...any)
	view   *view
	agents int
	// firmware is the path of each version.
	firmware map[string]string
	good     string // the id of the rollout of the good version
}

// policy has the clocks of a demo: what takes hours in a real fleet takes
// seconds here. Everything else is as it would be.
func policy(percents ...float64) map[string]any {
	waves := []any{}
	for _, p := range percents {
		waves = append(waves, map[string]any{"percent": p, "spread": "2s", "soak": "2s"})
	}
	return map[string]any{
		"waves":   waves,
		"gate":    map[string]any{"success_percent": 95, "max_silent_percent": 20},
		"breaker": map[string]any{"percent": 2, "window": "10m"},
		"silent":  map[string]any{"factor": 10, "at_least": "40s"},
		"settle":  "2s", "health_timeout": "12s", "attempts": 1,
	}
}

// play is the demo from the firmware's signing to the checked outcome. The result
// holds what was measured so far also when there is an error.
func (d *demo) play(ctx context.Context) (*Result, error) {
	d.say("signing and publishing firmware %s, %s (good) and %s (starts, then fails its health check) with release keys that fleetd never sees",
		oldVersion, goodVersion, badVersion)
	for _, v := range []string{oldVersion, goodVersion, badVersion} {
		if err := d.stack.Publish(ctx, release, v, d.firmware[v], models); err != nil {
			return nil, err
		}
	}
	devices := fleet(d.agents)
	if err := d.register(ctx, devices); err != nil {
		return nil, err
	}
	d.say("starting %d agents with firmware %s", len(devices), oldVersion)
	for _, dev := range devices {
		dev.Firmware, dev.Version = d.firmware[oldVersion], oldVersion
		if _, err := d.stack.StartAgent(ctx, dev); err != nil {
			return nil, err
		}
	}
	if err := d.awaitFleet(ctx, len(devices), oldVersion); err != nil {
		return nil, err
	}
	result := &Result{Devices: len(devices)}
	if err := d.rollGood(ctx, result); err != nil {
		return result, err
	}
	if err := d.rollBad(ctx, result); err != nil {
		return result, err
	}
	return result, d.closing(ctx, result)
}

// awaitFleet waits until all devices have reported that they run version.
func (d *demo) awaitFleet(ctx context.Context, n int, version string) error {
	for {
		running, err := d.stack.Devices(ctx, url.Values{"component": {"system"}, "version": {version}})
		if err == nil && len(running) == n {
			d.say("all %d devices have checked in and run %s", n, version)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d devices reported that they run %s (%v)", len(running), n, version, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *demo) start(ctx context.Context, version string, policy map[string]any) (*stack.Rollout, error) {
	return d.stack.CreateRollout(ctx, rollout(version, policy))
}

func rollout(version string, policy map[string]any) map[string]any {
	return map[string]any{
		"release": map[string]string{"name": release, "version": version},
		"cohorts": []string{regions[0].name, regions[1].name}, "policy": policy, "note": "demo",
	}
}

// rollGood brings the good version to everybody, with a pause on the way.
func (d *demo) rollGood(ctx context.Context, result *Result) error {
	r, delta, err := d.prepare(ctx, goodVersion, policy(5, 30, 100))
	if err != nil {
		return err
	}
	d.good = r.ID
	d.say("rolling out %s: canary, then waves to 100 %%", goodVersion)
	r, err = d.watch(ctx, r.ID, func(r *stack.Rollout) bool { return r.State != "running" || r.Waves[1].State != "pending" })
	if err != nil {
		return err
	}
	if r.State != "running" {
		return fmt.Errorf("rollout of %s is %s: %s", goodVersion, r.State, r.Reason)
	}
	if result.PauseToDeviceMillis, err = d.measurePause(ctx, r); err != nil {
		return err
	}
	r, err = d.watch(ctx, r.ID, func(r *stack.Rollout) bool { return r.State != "running" })
	if err != nil {
		return err
	}
	info, err := os.Stat(d.firmware[goodVersion])
	if err != nil {
		return err
	}
	outcome := outcomeOf(r)
	outcome.Delta = deltaOf(r, d.agents, delta, info.Size())
	result.Rollouts = append(result.Rollouts, outcome)
	return checkGood(r, d.agents, delta)
}

// measurePause pauses the running rollout, waits until the last connected
// device holds the paused manifest, and resumes it.
func (d *demo) measurePause(ctx context.Context, r *stack.Rollout) (float64, error) {
	d.say("pausing it for a moment, to see how fast that reaches the devices")
	asked := time.Now()
	if _, err := d.stack.Change(ctx, r.ID, "pause", map[string]string{"reason": "demo: a pause"}); err != nil {
		return 0, err
	}
	versions, err := d.stack.ManifestVersions(ctx, r.Cohorts...)
	if err != nil {
		return 0, err
	}
	last, err := d.stack.AwaitManifests(ctx, versions)
	if err != nil {
		return 0, fmt.Errorf("the pause did not reach every connected device: %w", err)
	}
	took := last.Sub(asked)
	d.say("the last connected device had it after %.0f ms; resuming", float64(took.Microseconds())/1000)
	_, err = d.stack.Change(ctx, r.ID, "resume", map[string]string{"reason": "demo: go on"})
	return round(float64(took.Microseconds()) / 1000), err
}

// rollBad shows that a bad version does not get past its canary devices.
func (d *demo) rollBad(ctx context.Context, result *Result) error {
	r, err := d.start(ctx, badVersion, policy(8, 30, 100))
	if err != nil {
		return err
	}
	d.say("rolling out %s, which is bad: its canary devices will find out", badVersion)
	r, err = d.watch(ctx, r.ID, func(r *stack.Rollout) bool { return r.State != "running" })
	if err != nil {
		return err
	}
	if r.State == "paused" {
		d.say("the breaker paused it: %s", r.Reason)
	}
	// Those that were in the middle of it finish: back to the version before.
	r, err = d.watch(ctx, r.ID, func(r *stack.Rollout) bool { return r.Count("downloading", "verified", "staged", "trying") == 0 })
	if err != nil {
		return err
	}
	result.Rollouts = append(result.Rollouts, outcomeOf(r))
	return d.checkContained(ctx, r)
}

// checkContained: nobody outside the canary wave ever activated the bad version,
// and whoever did rolled back by itself.
func (d *demo) checkContained(ctx context.Context, r *stack.Rollout) error {
	if err := checkStopped(r); err != nil {
		return err
	}
	outcomes, err := d.stack.Outcomes(ctx, r.ID)
	if err != nil {
		return err
	}
	activated, err := d.activated(badVersion)
	if err != nil {
		return err
	}
	if err := checkCanaries(outcomes, activated); err != nil {
		return err
	}
	d.say("%d canary devices rolled back by themselves; nobody else ever activated %s", len(activated), badVersion)
	return nil
}

// activated are the devices that ever launched a version, by their own logs.
func (d *demo) activated(version string) ([]string, error) {
	var ids []string
	for _, a := range d.stack.Agents() {
		yes, err := a.Activated(version)
		if err != nil {
			return nil, err
		}
		if yes {
			ids = append(ids, a.ID)
		}
	}
	return ids, nil
}

// watch shows a rollout until cond holds.
func (d *demo) watch(ctx context.Context, id string, cond func(*stack.Rollout) bool) (*stack.Rollout, error) {
	defer d.view.leave()
	return d.stack.AwaitRollout(ctx, id, 300*time.Millisecond, func(r *stack.Rollout) bool {
		d.view.draw(r)
		return cond(r)
	})
}

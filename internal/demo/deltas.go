package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"groundswell/internal/devstack/stack"
)

// Delta is the delta that a rollout went by.
type Delta struct {
	// Kind is "expanded": it looks through compression.
	Kind string `json:"kind"`
	// Bytes are its own, PlainBytes those of the delta that does not look through
	// compression, and FullBytes those of the artifact, of each device.
	Bytes      int64 `json:"bytes"`
	PlainBytes int64 `json:"plain_bytes"`
	FullBytes  int64 `json:"full_bytes"`
	// SavedVsPlain is what all devices together fetched less than plain deltas have.
	SavedVsPlain int64 `json:"saved_vs_plain_bytes"`
}

// prepare schedules a rollout, waits until devices would know of both deltas from what they
// run, and starts it. Without the wait its first wave went by the plain delta, and the others
// by whichever is smaller when they open.
func (d *demo) prepare(ctx context.Context, version string, policy map[string]any) (*stack.Rollout, stack.Delta, error) {
	body := rollout(version, policy)
	body["start_at"] = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	r := &stack.Rollout{}
	if err := d.stack.API(ctx, "POST", "/v1/rollouts", body, r); err != nil {
		return nil, stack.Delta{}, err
	}
	if _, err := d.stack.Change(ctx, r.ID, "start", nil); err != nil {
		return nil, stack.Delta{}, err
	}
	d.say("scheduled the rollout of %s: fleetd makes the deltas that it needs", version)
	r, err := d.stack.AwaitRollout(ctx, r.ID, 100*time.Millisecond, func(r *stack.Rollout) bool {
		return len(r.Deltas) == 1 && r.Deltas[0].Listed && r.Deltas[0].Plain > 0
	})
	if err != nil {
		return nil, stack.Delta{}, fmt.Errorf("the delta that looks through compression: %w", err)
	}
	delta := r.Deltas[0]
	d.say("the delta from %s has %s, and would have %s if it did not look through compression", delta.From, kilobytes(delta.Bytes), kilobytes(delta.Plain))
	r, err = d.stack.Change(ctx, r.ID, "start", nil)
	return r, delta, err
}

// deltaHead is how much of a delta a device may fetch twice: its begin, to learn how long
// its head is.
const deltaHead = 4 << 10

// checkThrough is the promise about compression: each device went by the delta that looks
// through it, and all of what was fetched is a fraction of what plain deltas have.
func checkThrough(r *stack.Rollout, devices int, delta stack.Delta) error {
	n := int64(devices)
	if t := r.Transfer; t.Delta < n*delta.Bytes/2 || t.Delta > n*(delta.Bytes+deltaHead) || t.Origin > n*delta.Plain/4 {
		return fmt.Errorf("rollout of %s: it did not go by the delta of %d bytes that looks through compression, the plain one has %d: %+v",
			r.Release.Version, delta.Bytes, delta.Plain, t)
	}
	return nil
}

func deltaOf(r *stack.Rollout, devices int, delta stack.Delta, full int64) *Delta {
	return &Delta{Kind: "expanded", Bytes: delta.Bytes, PlainBytes: delta.Plain, FullBytes: full, SavedVsPlain: int64(devices)*delta.Plain - r.Transfer.Delta}
}

func (d *Delta) print(out io.Writer, release string) {
	fmt.Fprintf(out, "%s: its delta looks through compression: %s for each device, where the plain one has %s and the artifact %s; that saved %s of plain deltas.\n",
		release, kilobytes(d.Bytes), kilobytes(d.PlainBytes), kilobytes(d.FullBytes), kilobytes(d.SavedVsPlain))
}

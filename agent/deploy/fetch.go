package deploy

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// stopped is why a download was ended from outside.
type stopped struct{ reason string }

func (s stopped) Error() string { return s.reason }

// fetch brings metadata and bytes, while it watches whether they are still
// wanted.
func (d *Driver) fetch(ctx context.Context) (update.Event, error) {
	working, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for d.pause(working, d.clock.Now().Add(longest)) == nil {
			decision, _, _ := d.look()
			if decision.Action == decide.Stop || decision.Action == decide.None {
				cancel(stopped{decision.Reason})
				return
			}
		}
	}()
	// The world may have changed before the watch began.
	var err error
	if decision, _, _ := d.look(); decision.Action == decide.Stop {
		err = stopped{decision.Reason}
	} else {
		err = d.withinBudget(working, d.bring)
	}
	cause := context.Cause(working)
	cancel(nil)
	<-watched
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var stop stopped
	switch {
	case err == nil:
		d.dep.Downloaded = d.clock.Now().UTC()
		return update.Fetched, nil
	case errors.As(err, &stop), errors.As(cause, &stop):
		d.dep.Reason, d.dep.Detail = stop.reason, ""
		return update.Stop, nil
	}
	d.dep.Reason, _ = reasonOf(err)
	d.dep.Detail = err.Error()
	return update.Fail, nil
}

// patience is how many rounds metadata may be refused before the attempt is
// given up. That it cannot be had at all is no reason to give up.
const patience = 5

func (d *Driver) bring(ctx context.Context) error {
	for {
		hold, err := d.allowed(ctx, condition.Download)
		if err != nil {
			return err
		}
		if hold == nil {
			break
		}
		rest := Rest{State: d.dep.State, Reason: hold.Reason, Until: d.clock.Now().Add(hold.Again)}
		if err := d.attention.rests(ctx, rest, func(ctx context.Context) error { return sleep(ctx, hold.Again) }); err != nil {
			return err
		}
	}
	for round, refused := 1, 0; ; round++ {
		images, err := d.images(ctx)
		if err == nil {
			err = d.eligible(images)
		}
		if err == nil {
			break
		}
		reason, final := reasonOf(err)
		if reason == reasonMetadata {
			refused++
		}
		if final || refused >= patience || ctx.Err() != nil {
			return err
		}
		d.log.Warn("metadata cannot be had yet", "rollout", d.dep.Entry.Rollout, "round", round, "err", err)
		if err := d.downloads.Pause(ctx, round); err != nil {
			return err
		}
	}
	// Stopped when it was staged already, or provisioned in this very version.
	if _, err := d.slots.Stage(d.image()); err == nil {
		return nil
	}
	target := d.dep.Entry.Target
	path, err := d.slots.Staging(target.SHA256)
	if err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return d.downloads.Artifact(ctx, fetch.Artifact{Length: target.Length, SHA256: target.SHA256}, path, nil)
}

// sleep waits, as long as ctx lives.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// eligible is whether both repositories agree that this device may run the
// release, and whether it has what the release requires.
func (d *Driver) eligible(images trust.Images) error {
	if err := images.Eligible(d.dep.Entry, trust.Facts{Model: d.cfg.Model, Hardware: d.cfg.Hardware}); err != nil {
		return err
	}
	image, _ := images.Lookup(d.dep.Entry.Target.Path) // Eligible found it
	versions := Versions(d.cfg.Component, d.slots)
	for _, q := range image.Release.Requires {
		version, ok := versions[q.Component]
		if !ok {
			return fmt.Errorf("%w: component %s %s, which is not here", errRequires, q.Component, q.Versions)
		}
		if ok, err := topics.Satisfies(version, q.Versions); err != nil || !ok {
			return fmt.Errorf("%w: component %s %s, here is %s", errRequires, q.Component, q.Versions, version)
		}
	}
	return nil
}

var (
	errRequires = errors.New("release requires something else")
	errDisk     = errors.New("disk")
)

const reasonMetadata = "metadata"

// reasonOf is the slug for an error, and whether trying again is pointless.
func reasonOf(err error) (slug string, final bool) {
	for _, known := range []struct {
		sentinel error
		slug     string
		final    bool
	}{
		{trust.ErrUnknownTarget, "unknown-target", true},
		{trust.ErrMismatch, "mismatch", true},
		{trust.ErrHardware, "hardware", true},
		{trust.ErrSecurityFloor, "security-floor", true},
		{errRequires, "requires", true},
		{fetch.ErrWrongBytes, "wrong-bytes", true},
		{trust.ErrLength, "length", true},
		{trust.ErrDigest, "digest", true},
		{trust.ErrSchema, "schema", true},
		{syscall.ENOSPC, "disk-full", true},
		{syscall.EDQUOT, "disk-full", true},
		{errDisk, "disk", true},
		{syscall.EROFS, "disk", true},
		{syscall.EIO, "disk", true},
		{trust.ErrSignature, reasonMetadata, false},
		{trust.ErrThreshold, reasonMetadata, false},
		{trust.ErrExpired, reasonMetadata, false},
		{trust.ErrMalformed, reasonMetadata, false},
		{trust.ErrPin, reasonMetadata, false},
		{trust.ErrVersionRollback, reasonMetadata, false},
		{trust.ErrVersionGap, reasonMetadata, false},
		{trust.ErrVanished, reasonMetadata, false},
		{trust.ErrTrustDomain, reasonMetadata, false},
		{trust.ErrKind, reasonMetadata, false},
		{trust.ErrTooLarge, reasonMetadata, false},
		{fetch.ErrTooLarge, reasonMetadata, false},
	} {
		if errors.Is(err, known.sentinel) {
			return known.slug, known.final
		}
	}
	return "fetch", false
}

func (d *Driver) image() slot.Image {
	e := d.dep.Entry
	return slot.Image{Version: e.Version, Release: e.Release, SHA256: e.Target.SHA256, Length: e.Target.Length}
}

// place puts the bytes into the idle slot.
func (d *Driver) place() (update.Event, error) {
	name, err := d.slots.Stage(d.image())
	switch {
	case err == nil:
		d.dep.Slot = name
		return update.Placed, nil
	case errors.Is(err, slot.ErrNotStaged):
		d.log.Warn("what was downloaded is not whole any more", "err", err)
		return update.Lost, nil
	}
	d.dep.Reason, _ = reasonOf(fmt.Errorf("%w: %w", errDisk, err))
	d.dep.Detail = err.Error()
	return update.Fail, nil
}

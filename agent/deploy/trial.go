package deploy

import (
	"context"
	"errors"
	"time"

	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/topics"
)

// arm makes the jump.
func (d *Driver) arm(ctx context.Context) (update.Event, error) {
	defer d.letGo()
	if s, ok := d.slots.(interface{ Within(total time.Duration) }); ok { // who ends what does not decide wants to know
		s.Within(d.health().Total)
	}
	err := d.patiently(ctx, "activate", func() error { return d.slots.Activate(ctx) })
	d.cfg.At("armed")
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		d.dep.Reason, d.dep.Detail = "activate", err.Error()
		return update.Unhealthy, nil
	}
	return "", nil
}

// watch waits for the verdict about the version on trial.
func (d *Driver) watch(ctx context.Context) (update.Event, error) {
	cfg := d.health()
	cfg.Before = d.dep.Before
	verdict, err := health.Watch(ctx, cfg, d.observe(cfg.Offline()))
	if err != nil {
		return "", err
	}
	d.dep.Reason, d.dep.Detail = verdict.Reason, verdict.Detail
	if verdict.Healthy {
		return update.Healthy, nil
	}
	return update.Unhealthy, nil
}

// health is what healthy means in the deployment in progress.
func (d *Driver) health() health.Config {
	cfg := d.cfg.Health
	if s := d.dep.Entry.SettleSeconds; s > 0 {
		cfg.Settle = seconds(s)
	}
	if s := d.dep.Entry.HealthTimeoutSeconds; s > 0 {
		cfg.Total = seconds(s)
	}
	return cfg.WithDefaults()
}

// askAgain is how long a sign of life from the broker is waited for before it is asked
// for another.
const askAgain = 30 * time.Second

// observe returns how to look at what is on trial. If the broker must be heard, at least
// every offline, it is asked for signs of life: one from before the boot says nothing
// about what was booted, and a device that polls would hear none for long.
func (d *Driver) observe(offline time.Duration) func() health.Component {
	var boot string
	var since, asked time.Time
	return func() health.Component {
		r, now := d.slots.Running(), time.Now()
		if r.BootID != boot {
			boot, since, asked = r.BootID, now, time.Time{}
		}
		c := health.Component{OnTrial: r.Slot == d.dep.Slot, Up: r.Up, Busy: r.Busy, BootID: r.BootID, Addr: r.Addr}
		if version := r.Image.Version; version != d.dep.Entry.Version {
			c.Other = version
		}
		c.HeardAgo, c.Heard = d.world.Heard()
		c.Heard = c.Heard && c.HeardAgo < now.Sub(since)
		if offline > 0 && (!c.Heard || c.HeardAgo > offline/2) && now.Sub(asked) > askAgain {
			asked = now
			d.world.CheckIn()
		}
		return c
	}
}

// seconds is n seconds, at most a week: more would overflow.
func seconds(n int64) time.Duration { return time.Duration(min(n, 7*24*3600)) * time.Second }

// confirm makes the new version the one that boots. The fallback may have
// struck in the last moment; then that is the truth.
func (d *Driver) confirm(ctx context.Context) (update.Event, error) {
	for n := 1; ; n++ {
		err := d.slots.Confirm(ctx, d.dep.Slot)
		if err == nil {
			d.cfg.At("confirmed")
			return "", nil
		}
		if errors.Is(err, slot.ErrGivenUp) {
			d.dep.Reason, d.dep.Detail = health.ReasonFellBack, err.Error()
			return update.Unhealthy, nil
		}
		d.log.Error("cannot confirm, trying again", "err", err)
		if err := d.downloads.Pause(ctx, n); err != nil {
			return "", err
		}
	}
}

// report queues a report of the present state, once per state.
func (d *Driver) report(ctx context.Context) error {
	if d.dep.Reported == d.dep.State {
		return nil
	}
	d.dep.Reported = d.dep.State
	s := d.status(topics.State(d.dep.State))
	queue := func(r *journal.Record) error { return d.queue(r, s) }
	if d.dep.State != update.Trying {
		return d.save(ctx, queue)
	}
	// The new version runs: watching it cannot wait until the disk is emptied.
	// The report of the end will tell what this one does not.
	if err := d.write(queue); err != nil {
		d.log.Error("trial cannot be reported", "rollout", d.dep.Entry.Rollout, "err", err)
	}
	return nil
}

// close ends the attempt: its report and the return to Idle are one write.
func (d *Driver) close(ctx context.Context) (update.Event, error) {
	dep, now := d.dep, d.clock.Now().UTC()
	s := d.status(topics.State(dep.State))
	if dep.State == update.Committed && s.Running != s.Target {
		// Confirmed, and a moment later found damaged: what runs is the truth.
		d.dep.Reason, d.dep.Detail = health.ReasonFellBack, "another version was booted after the confirmation"
		return update.Unhealthy, nil
	}
	if dep.State == update.Committed {
		s.Reason, s.Detail = health.ReasonHealthy, ""
	}
	output, own := d.slots.Output(), d.ownLog()
	if d.logged {
		own = ""
	}
	err := d.insist(ctx, "journal", func() error {
		return d.journal.Update(func(r *journal.Record) error {
			r.SetDeployment(d.cfg.Component, journal.Deployment{State: update.Idle})
			r.End(dep.Entry.Rollout, dep.Attempt, now)
			if dep.State == update.Committed {
				delete(r.Failures, dep.Entry.Rollout)
				delete(r.Penalties, dep.Entry.Target.SHA256)
			} else {
				n := r.Failures[dep.Entry.Rollout].Count + 1
				r.Fail(dep.Entry.Rollout, now, now.Add(d.retryAfter(n)))
			}
			if dep.State == update.RolledBack {
				r.Penalize(dep.Entry.Target.SHA256, dep.Entry.Rollout, now, d.penalty)
			}
			if dep.State != update.Committed {
				if err := errors.Join(d.queueLog(r, "agent", own), d.queueLog(r, d.cfg.Component, output)); err != nil {
					return err
				}
			}
			return d.queue(r, s)
		})
	})
	if err != nil {
		return "", err
	}
	d.logged = false
	d.log.Info("deployment ended", "rollout", dep.Entry.Rollout, "release", dep.Entry.Version, "attempt", dep.Attempt,
		"state", string(dep.State), "reason", s.Reason, "detail", s.Detail, "running", s.Running)
	// What runs has changed, or did not as it should: worth a session.
	d.world.Heartbeat()
	d.world.CheckIn()
	return update.Closed, nil
}

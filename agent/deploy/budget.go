package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"groundswell/agent/journal"
	"groundswell/agent/wake"
	"groundswell/topics"
)

// ReasonBudget: this wake's budget for downloads is spent.
const ReasonBudget = "budget"

// withinBudget has bring fetch, wake by wake, as far as the budget of each goes.
func (d *Driver) withinBudget(ctx context.Context, bring func(context.Context) error) error {
	for {
		changed := d.cfg.Wake.Changed()
		if !d.cfg.Wake.Over() {
			within, cancel := d.cfg.Wake.Within(ctx)
			err := bring(within)
			spent := errors.Is(err, wake.ErrSpent) || err != nil && errors.Is(context.Cause(within), wake.ErrSpent)
			cancel()
			if !spent {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !d.cfg.Wake.Over() {
				continue // another has begun meanwhile
			}
		}
		if err := d.tellBudget(ctx); err != nil {
			return err
		}
		rest := Rest{State: d.dep.State, Reason: ReasonBudget, Until: d.cfg.Wake.Next()}
		if err := d.attention.rests(ctx, rest, func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
				return nil
			}
		}); err != nil {
			return err
		}
	}
}

// tellBudget reports that the download goes on in the next wake, and how far it is. The
// report leaves with that wake's check-in; only the first one of an attempt is worth a
// connection of its own.
func (d *Driver) tellBudget(ctx context.Context) error {
	s := d.status(topics.State(d.dep.State))
	s.DownloadedBytes, s.Reason = d.downloaded(), ReasonBudget
	s.Detail = fmt.Sprintf("%d of %d bytes are there, the next wake goes on", s.DownloadedBytes, s.Bytes)
	if next := d.cfg.Wake.Next(); !next.IsZero() {
		until := next.UTC()
		s.Until = &until
	}
	what := fmt.Sprintf("%s %d", s.Rollout, s.Attempt)
	first := d.budget.what != what
	if !first && d.budget.have == s.DownloadedBytes && !d.account.due() {
		return nil // said already
	}
	d.budget.what, d.budget.have = what, s.DownloadedBytes
	d.account.said()
	d.log.Info("the device waits", "rollout", s.Rollout, "reason", s.Reason, "detail", s.Detail, "until", s.Until)
	err := d.insist(ctx, "journal", func() error {
		return d.journal.Update(func(r *journal.Record) error { return d.queue(r, s) })
	})
	if err == nil && first {
		d.world.CheckIn()
	}
	return err
}

// progress is what was reported of a download that waits.
type progress struct {
	what string // rollout and attempt
	have int64
}

// downloaded is how many bytes of the artifact are there; none, where peers have brought
// another one.
func (d *Driver) downloaded() int64 {
	n, e := d.there(), d.dep.Entry
	if d.nearby.another && d.nearby.what == e.Rollout && n == e.Target.Length {
		return 0
	}
	return n
}

// there is how many bytes there are.
func (d *Driver) there() int64 {
	path, err := d.slots.Staging(d.dep.Entry.Target.SHA256)
	if err != nil {
		return 0
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return min(info.Size(), d.dep.Entry.Target.Length)
}

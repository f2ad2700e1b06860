package deploy

import (
	"context"
	"errors"
	"sync"
	"time"

	"groundswell/agent/journal"
	"groundswell/agent/wake"
	"groundswell/topics"
)

// errTurn: one component downloads at a time.
var errTurn = errors.New("another component downloads")

// account is what there is to say of a download that takes long: when something was said
// last, and why it stands still.
type account struct {
	wake   *wake.Wake
	uptime func() time.Duration // goes on while the device sleeps

	mu    sync.Mutex      // guards what follows; the wake's may be taken under it
	again time.Duration   // by uptime: when it is to be said again; zero: at once
	next  <-chan struct{} // closed when a wake begins in which it may be told again
	left  bool            // one wake was left to withinBudget since
	why   error           // nil: it gets on, or nobody knows
}

// said notes that the device has just said how it is.
func (a *account) said() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again, a.next, a.left = a.uptime()+retell, a.wake.Changed(), false
}

// due reports whether it was said long ago.
func (a *account) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uptime() >= a.again
}

// rest is how long there is nothing to say, and next, unless nil, is closed when there may
// be again. A device that sleeps between its check-ins says it once for each of them:
// nothing is sent in between. Where a wake's end ends the download, withinBudget says it
// then; should it say nothing, it is said a wake later.
func (a *account) rest() (long time.Duration, next <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if sleeps, timed := a.wake.Sleeps(); sleeps {
		current := a.wake.Changed()
		if timed && !a.left && a.next != current {
			a.next, a.left = current, true
		}
		if a.next == current {
			next = current
		}
	}
	return max(0, a.again-a.uptime()), next
}

// stands notes why the download does not get on, and moves that it does.
func (a *account) stands(why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.why = why
}

func (a *account) moves() { a.stands(nil) }

// reason is why it does not get on.
func (a *account) reason() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.why
}

// aloud does what a download consists of, and says how far that is while it takes long,
// whether it gets on or not: or fleetd would take the device for silent.
func (d *Driver) aloud(ctx context.Context, do func() error) error {
	speaking, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.speak(speaking)
	}()
	err := do()
	cancel()
	<-done // it reads d.dep
	return err
}

// speak tells how far the download is, whenever it is due, until ctx ends.
func (d *Driver) speak(ctx context.Context) {
	for {
		long, next := d.account.rest()
		switch {
		case long > 0:
			// A timer stands still while the device sleeps.
			if d.sleep(ctx, nil, min(long, time.Minute)) != nil {
				return
			}
		case next != nil:
			select {
			case <-ctx.Done():
				return
			case <-next:
			}
		default:
			d.tellHowFar()
		}
	}
}

// tellHowFar reports how far the download is, and why it gets no further. The report may be
// lost.
func (d *Driver) tellHowFar() {
	d.account.said()
	s := d.status(topics.State(d.dep.State))
	s.DownloadedBytes = d.downloaded()
	if why := d.account.reason(); why != nil {
		s.Reason, _ = reasonOf(why)
		s.Detail = why.Error()
		d.log.Info("the download stands still", "rollout", s.Rollout, "reason", s.Reason, "have", s.DownloadedBytes, "of", s.Bytes, "err", why)
	}
	if err := d.journal.Hold(func(r *journal.Record) error { return d.queue(r, s) }); err != nil {
		d.log.Warn("how far the download is cannot be reported", "err", err)
	}
}

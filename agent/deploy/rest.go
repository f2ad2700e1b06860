package deploy

import (
	"context"
	"sync"
	"time"

	"groundswell/agent/update"
)

// Rest is what a driver waits for when it has nothing to do.
type Rest struct {
	State  update.State
	Reason string
	// Until is when it looks again by itself; zero: when it is told something new.
	Until time.Time
}

// attention is what the driver is doing, for those who want to know whether it has seen
// what it was told. A driver decides, and then it rests or goes to work.
type attention struct {
	mu      sync.Mutex // guards what follows
	rest    *Rest      // nil: it does not rest
	working bool       // at what takes its time
	turns   int        // how often it has begun to rest or to work
	turned  chan struct{}
	again   context.CancelFunc // ends the present rest
}

// turn ends a decision. The caller holds mu.
func (a *attention) turn() {
	a.turns++
	if a.turned != nil {
		close(a.turned)
		a.turned = nil
	}
}

// perform notes which effect comes next.
func (a *attention) perform(effect update.Effect) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch effect {
	case update.Decide, update.Await, update.Report:
		a.working = false
	default:
		a.working = true
		a.turn()
	}
}

// rests runs wait as a rest, which Look ends.
func (a *attention) rests(ctx context.Context, r Rest, wait func(context.Context) error) error {
	resting, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.rest, a.again = &r, cancel
	a.turn()
	a.mu.Unlock()
	err := wait(resting)
	a.mu.Lock()
	a.rest, a.again = nil, nil
	if a.working {
		a.turn() // it goes on
	}
	a.mu.Unlock()
	if ctx.Err() == nil && resting.Err() != nil {
		return nil // it is to look again
	}
	return err
}

// Rest is what the driver waits for; not ok: it is deciding or at work.
func (d *Driver) Rest() (r Rest, ok bool) {
	d.attention.mu.Lock()
	defer d.attention.mu.Unlock()
	if d.attention.rest == nil {
		return Rest{}, false
	}
	return *d.attention.rest, true
}

// Look has a driver that rests look again at what it was told, and returns when it has
// decided: it rests again, or is at work. It returns when ctx ends as well.
func (d *Driver) Look(ctx context.Context) {
	a := &d.attention
	a.mu.Lock()
	if a.working && a.rest == nil {
		a.mu.Unlock()
		return
	}
	if a.turned == nil {
		a.turned = make(chan struct{})
	}
	turned := a.turned
	if a.again != nil {
		a.again()
	}
	a.mu.Unlock()
	select {
	case <-turned:
	case <-ctx.Done():
	}
}

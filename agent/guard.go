package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"groundswell/agent/slot"
)

// driven is whether drivers judge what is on trial.
type driven struct{ drivers atomic.Bool }

// glance is how often a guard looks.
const glance = 10 * time.Second

// proving is what a guard watches.
type proving interface {
	Running() slot.Running
	FallBack(ctx context.Context) error
}

// guard ends a trial that nobody judges. The drivers, who would, run only while the agent
// can manage the device: a new system that took its certificate, its roots or the port
// away would be on trial for ever, because only boots are counted, and nobody boots. After
// limit without a driver, all in all, what is on trial is put back. It returns when ctx
// ends.
func guard(ctx context.Context, name string, slots proving, d *driven, limit time.Duration, log *slog.Logger) {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for alone := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch {
		case !slots.Running().Trial:
			alone = 0
			continue
		case d.drivers.Load():
			continue
		}
		if alone += glance; alone < limit {
			continue
		}
		log.Error("what is on trial is put back: the device could not be managed with it", "component", name, "for", alone)
		if err := slots.FallBack(ctx); err != nil && ctx.Err() == nil {
			log.Error("what is on trial cannot be put back", "component", name, "err", err)
		}
		alone = 0
	}
}

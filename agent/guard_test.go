package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/slot"
)

// onTrial is a system that is on trial until it is put back.
type onTrial struct{ trial, back atomic.Bool }

func (o *onTrial) Running() slot.Running {
	return slot.Running{Slot: "b", Up: true, Trial: o.trial.Load()}
}

func (o *onTrial) FallBack(context.Context) error {
	o.back.Store(true)
	o.trial.Store(false)
	return nil
}

// TestATrialThatNobodyJudgesIsPutBack, but not one that a driver judges, however long
// that takes, and nothing that is not on trial.
func TestATrialThatNobodyJudgesIsPutBack(t *testing.T) {
	for name, c := range map[string]struct {
		trial, driven bool
		back          bool
	}{
		"unmanaged":    {true, false, true},
		"driven":       {true, true, false},
		"not on trial": {false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var system onTrial
				var d driven
				system.trial.Store(c.trial)
				d.drivers.Store(c.driven)
				go guard(ctx, "system", &system, &d, 10*time.Minute, slog.New(slog.DiscardHandler))
				time.Sleep(10*time.Minute - 2*glance) // of the bubble's time
				synctest.Wait()
				if system.back.Load() {
					t.Fatal("put back before its time")
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if system.back.Load() != c.back {
					t.Errorf("put back: %v", system.back.Load())
				}
			})
		})
	}
}

package main

import (
	"context"
	"errors"
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

// TestAWakeDoesNotLeaveATrialUnjudged: the new system took the device's certificate away.
func TestAWakeDoesNotLeaveATrialUnjudged(t *testing.T) {
	broken := errors.New("no certificate")
	for name, c := range map[string]struct {
		trial   bool
		mended  int // this try goes well
		want    error
		back    bool
		several bool
	}{
		"never managed": {trial: true, want: broken, back: true, several: true},
		"managed later": {trial: true, mended: 3, want: errOver, several: true},
		"not on trial":  {want: broken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				log := slog.New(slog.DiscardHandler)
				var system onTrial
				var d driven
				system.trial.Store(c.trial)
				go guard(ctx, "system", &system, &d, 10*time.Minute, log)
				tries := 0
				err := whileOnTrial(ctx, []proving{&system}, Backoff{Min: time.Second, Max: time.Minute}, log, func() error {
					if tries++; tries == c.mended {
						return errOver
					}
					return broken
				})
				if !errors.Is(err, c.want) || system.back.Load() != c.back || tries > 1 != c.several {
					t.Errorf("%v after %d tries, put back: %v", err, tries, system.back.Load())
				}
			})
		})
	}
}

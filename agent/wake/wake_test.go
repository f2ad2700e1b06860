package wake

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestNothingIsLimitedOutsideOfWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		awake := New(Limits{Awake: time.Minute, Bytes: 10})
		var none *Wake
		for _, w := range []*Wake{none, awake} {
			w.Spent(1000)
			time.Sleep(time.Hour)
			if _, limited := w.Left(); limited || w.Over() {
				t.Errorf("limited %v, over %v", limited, w.Over())
			}
			ctx, cancel := w.Within(t.Context())
			if ctx.Err() != nil {
				t.Error(ctx.Err())
			}
			cancel()
		}
		awake.Begin()
		awake.Spent(10)
		awake.Stay()
		if awake.Over() {
			t.Error("over though it stays connected")
		}
	})
}

func TestEachWakeHasItsBytes(t *testing.T) {
	w := New(Limits{Bytes: 10})
	for range 2 {
		changed := w.Changed()
		w.Begin()
		<-changed
		w.Spent(7)
		if left, limited := w.Left(); left != 3 || !limited || w.Over() {
			t.Errorf("left %d, limited %v, over %v", left, limited, w.Over())
		}
		w.Spent(7)
		if left, _ := w.Left(); left != 0 || !w.Over() {
			t.Errorf("left %d, over %v", left, w.Over())
		}
	}
}

func TestEachWakeHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Limits{Awake: time.Minute})
		for range 2 {
			w.Begin()
			time.Sleep(50 * time.Second)
			ctx, cancel := w.Within(t.Context())
			defer cancel()
			if w.Over() || ctx.Err() != nil {
				t.Error("over too early")
			}
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrSpent) || !w.Over() {
				t.Errorf("%v, over %v", context.Cause(ctx), w.Over())
			}
		}
	})
}

func TestWorkWithoutLimitsEndsWhenTheDeviceBeginsToSleep(t *testing.T) {
	w := New(Limits{Bytes: 10})
	ctx, cancel := w.Within(t.Context())
	defer cancel()
	w.Begin()
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), ErrSpent) {
		t.Error(context.Cause(ctx))
	}
}

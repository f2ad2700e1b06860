package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPausesGrowToTheLongest(t *testing.T) {
	r := Range{time.Second, 5 * time.Minute}
	for n, want := range map[int]time.Duration{-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1 << 40: 5 * time.Minute} {
		if got := r.Limit(n); got != want {
			t.Errorf("%d: %v, want %v", n, got, want)
		}
	}
	if got := (Range{time.Hour, 1<<63 - 1}).Limit(100); got != 1<<63-1 {
		t.Errorf("beyond what can be said: %v", got)
	}
	if got := (Range{0, time.Minute}).Limit(9); got != 0 {
		t.Errorf("without a shortest: %v", got)
	}
	if got := (Range{time.Hour, time.Minute}).Limit(1); got != time.Minute {
		t.Errorf("with a longest below the shortest: %v", got)
	}
}

func TestPausesAreDrawnFromAll(t *testing.T) {
	r := Range{4, 4}
	seen := map[time.Duration]int{}
	for range 10_000 {
		seen[r.Draw(3)]++
	}
	for pause := range time.Duration(5) {
		if seen[pause] < 1000 {
			t.Errorf("%v was drawn %d times of 10,000", pause, seen[pause])
		}
	}
	if len(seen) != 5 {
		t.Errorf("%v", seen)
	}
}

func TestAPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := Sleep(t.Context(), time.Hour); err != nil || time.Since(began) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began = time.Now()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Package backoff draws the pauses between attempts: exponential, with full jitter, so that
// those who failed together do not come back together.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Range bounds the pauses.
type Range struct{ Min, Max time.Duration }

// Limit is the longest pause after n failures: Min x 2^(n-1), at most Max. n below 1 counts
// as 1. Without a Min there is no pause.
func (r Range) Limit(n int) time.Duration {
	limit := max(r.Min, 0)
	for ; n > 1 && limit > 0 && limit < r.Max; n-- {
		if limit *= 2; limit <= 0 { // beyond what can be said
			return r.Max
		}
	}
	return min(limit, r.Max)
}

// Draw is a random pause from 0 to Limit(n).
func (r Range) Draw(n int) time.Duration { return Jitter(r.Limit(n)) }

// Jitter is a random pause from 0 to limit.
func Jitter(limit time.Duration) time.Duration { return rand.N(limit + 1) }

// Pause waits for Draw(n). It returns ctx's error when that ends first.
func (r Range) Pause(ctx context.Context, n int) error { return Sleep(ctx, r.Draw(n)) }

// Sleep waits so long, or returns ctx's error when that ends first.
func Sleep(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

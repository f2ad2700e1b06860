// Package wake keeps the budget of a device that sleeps between its check-ins: how
// long a wake may last and how many bytes it may fetch before the next one.
//
// A wake begins with a scheduled check-in (Begin) and lasts until the next one; a
// check-in before its time is part of the wake that it falls into. Downloads ask what is
// left and stop when nothing is; what they have is kept, and they go on in the next
// wake. Nothing else asks: what comes after a download is short, and what comes after an
// activation must be brought to its end.
//
// While the device stays connected (Stay, and before anything was called) there are no
// limits.
package wake

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrSpent means that this wake's budget is used up.
var ErrSpent = errors.New("the budget of this wake is spent")

// Limits are for one wake.
type Limits struct {
	// Awake is how long after its beginning a wake may fetch. 0: no limit.
	Awake time.Duration
	// Bytes is how much it may fetch: artifacts and metadata, without what the
	// protocols below add. 0: no limit.
	Bytes int64
}

// Wake is the present wake. It is safe for concurrent use. A nil Wake has no limits.
type Wake struct {
	limits Limits

	mu      sync.Mutex // guards what follows
	limited bool
	began   time.Time
	spent   int64
	next    time.Time
	changed chan struct{} // closed by Begin and Stay
}

// New has no limits until Begin.
func New(l Limits) *Wake { return &Wake{limits: l, changed: make(chan struct{})} }

// Begin begins a wake: everything may be spent anew.
func (w *Wake) Begin() { w.change(true) }

// Stay ends the limits: the device stays connected.
func (w *Wake) Stay() { w.change(false) }

func (w *Wake) change(limited bool) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limited, w.began, w.spent, w.next = limited, time.Now(), 0, time.Time{}
	close(w.changed)
	w.changed = make(chan struct{})
}

// Changed is closed when the next wake begins, or the limits end.
func (w *Wake) Changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Plan says when the next wake begins.
func (w *Wake) Plan(next time.Time) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = next
}

// Next is when the next wake begins; zero: that is not known.
func (w *Wake) Next() time.Time {
	if w == nil {
		return time.Time{}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// Spent counts bytes that were fetched.
func (w *Wake) Spent(n int64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spent += n
}

// Sleeps reports whether the device sleeps between its check-ins, and timed whether what a
// wake fetches ends with it.
func (w *Wake) Sleeps() (sleeps, timed bool) {
	if w == nil {
		return false, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limited, w.limited && w.limits.Awake > 0
}

// Left is how many bytes may still be fetched, at least 0; limited is false when any
// number may be.
func (w *Wake) Left() (bytes int64, limited bool) {
	if w == nil {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left()
}

// left is Left for who holds mu.
func (w *Wake) left() (bytes int64, limited bool) {
	if !w.limited || w.limits.Bytes == 0 {
		return 0, false
	}
	return max(0, w.limits.Bytes-w.spent), true
}

// Over reports whether nothing more may be fetched in this wake.
func (w *Wake) Over() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	bytes, limited := w.left()
	return limited && bytes == 0 || w.limited && w.limits.Awake > 0 && time.Since(w.began) >= w.limits.Awake
}

// Within returns a context that ends, with ErrSpent as its cause, when the wake's time
// is over, and when a wake begins for who had no limits. Bytes do not end it.
func (w *Wake) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	if w == nil || w.limits == (Limits{}) {
		return ctx, func() {}
	}
	w.mu.Lock()
	limited, left, changed := w.limited, w.limits.Awake-time.Since(w.began), w.changed
	w.mu.Unlock()
	if limited && w.limits.Awake == 0 {
		return ctx, func() {}
	}
	if limited {
		return context.WithTimeoutCause(ctx, left, ErrSpent)
	}
	within, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-changed:
			cancel(ErrSpent)
		case <-within.Done():
		}
	}()
	return within, func() { cancel(nil) }
}

package fetch

import (
	"context"
	"fmt"
	"io"
	"time"
)

// rated is a body that has to come fast enough: least bytes in each stall of the time that
// is spent waiting for it. Time between two Reads is the reader's own, who unpacks what
// came and waits for the disk, and says nothing about the source.
type rated struct {
	body   io.Reader
	slow   func() // cancels a wait that is under way, with ErrSlow
	stall  time.Duration
	least  int64         // bytes
	waited time.Duration // since least bytes had come
	since  int64         // bytes that came in that
}

func (r *rated) Read(p []byte) (n int, err error) {
	r.wait(func() { n, err = r.body.Read(p) })
	if r.since += int64(n); r.since >= r.least {
		r.waited, r.since = 0, 0
	}
	return n, err
}

// wait calls slow when what is waited for lasts longer than is left of stall.
func (r *rated) wait(what func()) {
	began := time.Now()
	watchdog := time.AfterFunc(r.stall-r.waited, r.slow)
	what()
	watchdog.Stop()
	r.waited += time.Since(began)
}

// judge is ErrSlow with what was missed for an error that slow, which cancels ctx, has caused.
func (r *rated) judge(ctx context.Context, err error) error {
	if err != nil && context.Cause(ctx) == ErrSlow {
		return fmt.Errorf("%w: fewer than %d bytes in %v", ErrSlow, r.least, r.stall)
	}
	return err
}

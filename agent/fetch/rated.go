package fetch

import (
	"fmt"
	"io"
	"time"
)

// rated is a body that has to come fast enough: least bytes in each stall of the time that
// is spent waiting for it. Time between two Reads is the reader's own, who unpacks what
// came and waits for the disk, and says nothing about the source.
type rated struct {
	body   io.Reader
	slow   func() // ends a wait that is under way
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

// tooSlow is ErrSlow with what was missed.
func (r *rated) tooSlow() error {
	return fmt.Errorf("%w: fewer than %d bytes in %v", ErrSlow, r.least, r.stall)
}

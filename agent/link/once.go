package link

import (
	"context"
	"time"
)

// turns is how far a device is that somebody else wakes.
type turns struct {
	wished, served int // check-ins; those that failed are not served
	failures       int // of the newest, one after the other
	err            error
}

// once checks in at once, and again whenever somebody wishes, until ctx ends.
func (l *Link) once(ctx context.Context) error {
	l.cfg.Wake.Begin()
	l.CheckIn()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.checkIn:
		}
		for {
			l.mu.Lock()
			wished := l.turns.wished
			l.mu.Unlock()
			err := l.pollOnce(ctx)
			if ctx.Err() != nil {
				return nil
			}
			l.mu.Lock()
			if l.turns.err = err; err == nil {
				l.turns.served, l.turns.failures = wished, 0
			} else {
				l.turns.failures++
			}
			failures := l.turns.failures
			l.mu.Unlock()
			if err == nil {
				break
			}
			l.log.Warn("check-in failed", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(l.pause(failures)):
			}
		}
	}
}

// Turn is about a device that somebody else wakes (Config.Once): whether all check-ins
// that were wished for have been made, how often the newest has failed since, and why.
func (l *Link) Turn() (made bool, failures int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns.wished > 0 && l.turns.served == l.turns.wished, l.turns.failures, l.turns.err
}

// Package clock tells the time on devices whose clock may be anything: many
// have no battery behind it and wake up in 1970.
//
// Now is never before the floor: the build time of the agent, or the newest
// time of issue that the director has signed, whichever is later. From the
// floor it runs on by the monotonic clock. The machine's own clock is used
// whenever it is ahead of that, and is never remembered: a clock that was once
// in the future does no lasting harm.
package clock

import (
	"runtime/debug"
	"sync"
	"time"

	"groundswell/topics"
)

// Clock is safe for concurrent use.
type Clock struct {
	now func() time.Time // the machine's clock

	mu    sync.Mutex // guards what follows
	floor time.Time
	since time.Time // what the machine's clock said, monotonic reading included, when floor was set
}

// tolerance is how far the machine's clock may be behind verified metadata and
// still be called right: the servers' clocks are not exact either.
const tolerance = time.Minute

// New returns a clock with a first floor. A nil now means time.Now.
func New(floor time.Time, now func() time.Time) *Clock {
	if now == nil {
		now = time.Now
	}
	return &Clock{now: now, floor: floor, since: now()}
}

// Raise lifts the floor to t: it is at least that late. A t that is not later
// than what Now says anyway by the floor changes nothing.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if t.After(c.lowest(now)) {
		c.floor, c.since = t, now
	}
}

// Reset puts the floor to t, also when that is earlier: for when a director
// root has withdrawn the key that signed the present floor.
func (c *Clock) Reset(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor, c.since = t, c.now()
}

// lowest is the floor, run on. Caller holds mu.
func (c *Clock) lowest(now time.Time) time.Time {
	return c.floor.Add(max(0, now.Sub(c.since)))
}

// Now is the time.
func (c *Clock) Now() time.Time {
	t, _ := c.Read()
	return t
}

// Read is Now together with its quality: topics.ClockTrusted, or
// topics.ClockFloor when the machine's clock is behind what was verified.
func (c *Clock) Read() (time.Time, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	lowest := c.lowest(now)
	if !now.Before(lowest) {
		return now, topics.ClockTrusted
	}
	if lowest.Sub(now) <= tolerance {
		return lowest, topics.ClockTrusted
	}
	return lowest, topics.ClockFloor
}

// Built is when the agent was built: the time of its commit, or of this
// package's writing when the build does not tell.
func Built() time.Time {
	built := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && t.After(built) {
				built = t
			}
		}
	}
	return built
}

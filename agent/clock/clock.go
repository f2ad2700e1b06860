// Package clock tells the time on devices whose clock may be anything: many
// have no battery behind it and wake up in 1970.
//
// Now is never before the floor: the build time of the agent, or the newest
// time of issue that the director has signed, whichever is later. From the
// floor it runs on by the time since the boot. The machine's own clock is used
// whenever it is ahead of that, and is never remembered: a clock that was once
// in the future does no lasting harm.
//
// How long something is ago is another question, and is answered by the time
// since the device was booted, which nobody sets and which goes on while the
// device sleeps. Go's own monotonic clock stands still then.
package clock

import (
	"runtime/debug"
	"sync"
	"time"

	"groundswell/topics"

	"golang.org/x/sys/unix"
)

// Clock is safe for concurrent use.
type Clock struct {
	now  func() time.Time     // the machine's clock
	boot func() time.Duration // since the machine was booted

	mu    sync.Mutex // guards what follows
	floor time.Time
	since time.Duration // what boot said when floor was set
}

// tolerance is how far the machine's clock may be behind verified metadata and
// still be called right: the servers' clocks are not exact either.
const tolerance = time.Minute

// New returns a clock with a first floor. A nil now means time.Now; the time
// since the boot is then the kernel's, otherwise it goes with now.
func New(floor time.Time, now func() time.Time) *Clock {
	if now == nil {
		return NewFrom(floor, time.Now, uptime)
	}
	first := now()
	return NewFrom(floor, now, func() time.Duration { return now().Sub(first) })
}

// NewFrom is New with a machine of its own: its clock, and the time since its
// boot. A nil boot is the kernel's.
func NewFrom(floor time.Time, now func() time.Time, boot func() time.Duration) *Clock {
	if boot == nil {
		boot = uptime
	}
	return &Clock{now: now, boot: boot, floor: floor, since: boot()}
}

var began = time.Now()

// uptime is the time since the machine was booted, in which it slept included.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		// Linux has it since 2.6.39. Whatever filters it away: the longer of the two
		// answers that are left errs to the safe side.
		return max(time.Since(began), time.Now().Round(0).Sub(began.Round(0)))
	}
	return time.Duration(t.Nano())
}

// Uptime is the time since the machine was booted, in which it slept included.
// The difference of two is how long the first is ago, whatever was done to the
// clock in between.
func (c *Clock) Uptime() time.Duration { return c.boot() }

// Raise lifts the floor to t: it is at least that late. A t that is not later
// than what Now says anyway by the floor changes nothing.
func (c *Clock) Raise(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.boot()
	if t.After(c.lowest(now)) {
		c.floor, c.since = t, now
	}
}

// Reset puts the floor to t, also when that is earlier: for when a director
// root has withdrawn the key that signed the present floor.
func (c *Clock) Reset(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor, c.since = t, c.boot()
}

// lowest is the floor, run on. Caller holds mu.
func (c *Clock) lowest(boot time.Duration) time.Time {
	return c.floor.Add(max(0, boot-c.since))
}

// Floor is the time as far as it is certain: whatever the machine's clock says,
// it is at least that late.
func (c *Clock) Floor() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lowest(c.boot())
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
	lowest := c.lowest(c.boot())
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

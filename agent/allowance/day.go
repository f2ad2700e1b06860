package allowance

import (
	"time"

	"groundswell/agent/journal"
	"groundswell/topics"
)

const (
	// believed is how far the clock may be ahead of what was verified and begin a day:
	// a little longer than what is signed for devices is good for (14 days).
	believed = 15 * 24 * time.Hour
	// longestDay is the longest day that there is; after so much uptime, or when what is
	// certain about the time has gone on by so much, a new one begins in any case.
	longestDay = 25 * time.Hour
	// spread is in what time after midnight the days of all devices begin.
	spread = time.Hour
	// maxDebt is how many days' budgets a device may owe at most.
	maxDebt = 7
)

// turn begins a new day, if it is time. The caller holds mu.
func (a *Allowance) turn() {
	now, uptime, floor := a.clock.Now(), a.clock.Uptime(), a.clock.Floor()
	if a.usage.Floor.IsZero() || floor.Before(a.usage.Floor) { // an older agent's, or withdrawn
		a.usage.Floor = floor
	}
	over := uptime-a.anchor >= longestDay || floor.Sub(a.usage.Floor) >= longestDay
	if latest := floor.Add(believed); now.After(latest) {
		if now = latest; !over {
			return
		}
	}
	if now.Before(a.usage.Until) && !over {
		return
	}
	days := int64(1)
	if late := now.Sub(a.usage.Until); late > 0 && !a.usage.Until.IsZero() {
		days += int64(late / (24 * time.Hour))
	}
	next := a.usage
	if !a.usage.Until.IsZero() {
		next.Bytes = owed(a.usage.Bytes, a.cfg.DailyBudget, days)
		next.Metered = owed(a.usage.Metered, a.cfg.Metered.DailyBudget, days)
	}
	next.Until, next.Floor = a.midnight(now).UTC(), floor.UTC()
	a.usage, a.anchor = next, uptime
	a.write(next)
}

// owed is what is left of what was used, when so many days have passed.
func owed(used, budget, days int64) int64 {
	if budget == 0 {
		return 0
	}
	return max(0, min(used, (maxDebt+1)*budget)-min(days, maxDebt+1)*budget)
}

// midnight is when the device's next day begins.
func (a *Allowance) midnight(now time.Time) time.Time {
	own := time.Duration(topics.Bucket(a.device)) * spread / topics.Buckets
	local := now.In(a.zone())
	for day := local.Day(); ; day++ {
		if at := time.Date(local.Year(), local.Month(), day, 0, 0, 0, 0, local.Location()).Add(own); at.After(now) {
			return at
		}
	}
}

// spent counts bytes that came or went.
func (a *Allowance) spent(n int) {
	share := a.cfg.share()
	if share == 0 || n <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turn()
	a.usage.Bytes += int64(n)
	if a.link.metered {
		a.usage.Metered += int64(n)
	}
	if a.usage.Bytes <= a.written.Bytes && a.usage.Metered <= a.written.Metered {
		return
	}
	ahead := a.usage
	ahead.Bytes += share
	if a.link.metered {
		ahead.Metered += share
	}
	a.write(ahead)
}

// write journals what was used, or will have been. Where that cannot be, it is in memory:
// nothing is installed without the journal. The caller holds mu.
func (a *Allowance) write(u journal.Usage) {
	if a.journal == nil {
		return
	}
	if err := a.journal.Hold(func(r *journal.Record) error { r.Usage = u; return nil }); err != nil {
		a.log.Warn("what was downloaded today cannot be written down", "err", err)
	}
	a.written = u
}

// Close writes down what was used and no more.
func (a *Allowance) Close() {
	if a == nil || a.cfg.share() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.written != a.usage {
		a.write(a.usage)
	}
}

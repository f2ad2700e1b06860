package allowance

import (
	"time"

	"groundswell/topics"
)

// shut is whether a window is shut, and for how long that is known.
type shut struct {
	is         bool
	from, till time.Time
}

// closed reports whether a window is shut for the download that is under way. Who reads
// asks often, so the answer is kept for a second. The caller holds mu.
func (a *Allowance) closed() bool {
	if len(a.cfg.Windows) == 0 && len(a.wanted) == 0 {
		return false
	}
	now := a.clock.Now()
	if !now.Before(a.shut.from) && now.Before(a.shut.till) {
		return a.shut.is
	}
	own, _ := a.window(a.cfg.Windows, now)
	wanted, _ := a.window(a.wanted, now)
	a.shut = shut{!own || !wanted, now, now.Add(time.Second)}
	return a.shut.is
}

// mostDelay is the longest time after an opening at which a device begins.
const mostDelay = 15 * time.Minute

// window is topics.InWindow, with openings that are a little later, each device's by its
// own time.
func (a *Allowance) window(windows []topics.Window, now time.Time) (open bool, at time.Time) {
	if len(windows) == 0 {
		return true, time.Time{}
	}
	zone := a.zone()
	delay := a.delay(windows)
	open, at = topics.InWindow(windows, now, zone)
	if open {
		var opens time.Time
		if open, opens = topics.InWindow(windows, now.Add(-delay), zone); open {
			return true, at
		}
		at = opens
	}
	if at.IsZero() {
		return false, at
	}
	return false, at.Add(delay)
}

// delay is how long after an opening the device begins: within a quarter of the shortest
// window.
func (a *Allowance) delay(windows []topics.Window) time.Duration {
	most := mostDelay
	for _, w := range windows {
		most = min(most, length(w)/4)
	}
	return time.Duration(topics.Bucket(a.device)) * most / topics.Buckets
}

// length is how long a window is on most days.
func length(w topics.Window) time.Duration {
	start, errStart := time.Parse("15:04", w.Start)
	end, errEnd := time.Parse("15:04", w.End)
	if errStart != nil || errEnd != nil {
		return 0 // not checked
	}
	if !end.After(start) {
		end = end.AddDate(0, 0, 1)
	}
	return end.Sub(start)
}

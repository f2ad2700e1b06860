package topics

import (
	"slices"
	"time"
)

// Window is when a device may begin to install: on these weekdays from Start
// to End in the device's own time zone. An End at or before Start is on the
// next day. Days absent: every day.
type Window struct {
	Days  []string `json:"days,omitempty"` // "mon" ... "sun"
	Start string   `json:"start"`          // "22:00", local
	End   string   `json:"end"`            // "05:00", local, exclusive
}

// MaxWindows is how many windows an entry may have.
const MaxWindows = 14

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// CheckWindows returns a FieldError when a window cannot be read.
func CheckWindows(field string, windows []Window) error {
	if len(windows) > MaxWindows {
		return invalid(field, "has more than %d windows", MaxWindows)
	}
	for i, w := range windows {
		at := index(field, i)
		for j, d := range w.Days {
			if !slices.Contains(weekdays, d) {
				return invalid(index(at+".days", j), "%q is not one of mon, tue, wed, thu, fri, sat, sun", clip(d))
			}
		}
		if _, _, ok := clock(w.Start); !ok {
			return invalid(at+".start", "%q is not a local time such as 22:00", clip(w.Start))
		}
		if _, _, ok := clock(w.End); !ok {
			return invalid(at+".end", "%q is not a local time such as 05:00", clip(w.End))
		}
	}
	return nil
}

// CheckTimeZone returns a FieldError unless zone is empty or the name of an
// IANA time zone. "Local" is refused: it means something else everywhere.
func CheckTimeZone(field, zone string) error {
	if zone == "" {
		return nil
	}
	if zone == "Local" || len(zone) > MaxIDLength {
		return invalid(field, "%q is not the name of a time zone", clip(zone))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return invalid(field, "there is no time zone %q", clip(zone))
	}
	return nil
}

// InWindow reports whether now lies in one of the windows, read in loc, and
// until when (the end of the window it is in), else when the next one opens.
// No windows: always, with a zero time. The windows must have passed
// CheckWindows.
//
// Local times follow the wall clock: a start that a daylight-saving change
// skips is the moment after the gap, and one that happens twice is the first.
func InWindow(windows []Window, now time.Time, loc *time.Location) (open bool, at time.Time) {
	if len(windows) == 0 {
		return true, time.Time{}
	}
	local := now.In(loc)
	var next time.Time
	// From two days back, for a window over midnight, to nine days ahead, for
	// a weekly one whose day has passed or was skipped by a change of zone.
	for day := -2; day <= 9; day++ {
		for _, w := range windows {
			start, end := w.on(local.Year(), local.Month(), local.Day()+day, loc)
			if start.IsZero() || !end.After(start) {
				continue
			}
			if !now.Before(start) && now.Before(end) {
				if !open || end.After(at) {
					open, at = true, end
				}
			} else if now.Before(start) && (next.IsZero() || start.Before(next)) {
				next = start
			}
		}
	}
	if open {
		return true, at
	}
	return false, next
}

// on returns the window that begins on a date, or zero times on a day that is
// not among Days.
func (w Window) on(year int, month time.Month, day int, loc *time.Location) (start, end time.Time) {
	date := time.Date(year, month, day, 12, 0, 0, 0, time.UTC)
	if len(w.Days) > 0 && !slices.Contains(w.Days, weekdays[date.Weekday()]) {
		return time.Time{}, time.Time{}
	}
	sh, sm, _ := clock(w.Start)
	eh, em, _ := clock(w.End)
	if eh*60+em <= sh*60+sm {
		day++
	}
	return wall(date.Year(), date.Month(), date.Day(), sh, sm, loc), wall(year, month, day, eh, em, loc)
}

// wall is the first instant at which clocks in loc show the given time, or the
// first one after the gap when they skip it. time.Date guarantees neither.
func wall(year int, month time.Month, day, hour, minute int, loc *time.Location) time.Time {
	t := time.Date(year, month, day, hour, minute, 0, 0, loc)
	want := time.Date(year, month, day, hour, minute, 0, 0, time.UTC)
	// The offsets in force around t: before and after any change nearby.
	_, before := t.Add(-24 * time.Hour).Zone()
	_, after := t.Add(24 * time.Hour).Zone()
	first := want.Add(-time.Duration(max(before, after)) * time.Second)
	last := want.Add(-time.Duration(min(before, after)) * time.Second)
	for _, candidate := range []time.Time{first, last} {
		local := candidate.In(loc)
		if local.Hour() == want.Hour() && local.Minute() == want.Minute() && local.Day() == want.Day() {
			return local
		}
	}
	// Skipped: the change lies between the two candidates.
	_, end := first.In(loc).ZoneBounds()
	if !end.IsZero() && !end.After(last.Add(24*time.Hour)) {
		return end.In(loc)
	}
	return t
}

func clock(s string) (hour, minute int, ok bool) {
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != 5 {
		return 0, 0, false
	}
	return t.Hour(), t.Minute(), true
}

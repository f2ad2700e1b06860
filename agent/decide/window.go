package decide

import (
	"time"

	"groundswell/topics"
)

// lookBack bounds the search for the opening of the current window: longer than
// any week.
const lookBack = 10 * 24 * time.Hour

// turn says whether the device's moment has come: "" if so, else the reason to
// wait and until when. start is the moment by the wave alone.
func turn(windows []topics.Window, wave topics.Wave, position int64, start time.Time, loc *time.Location, now time.Time) (until time.Time, reason string) {
	at := start
	if now.After(at) {
		at = now
	}
	open, edge := topics.InWindow(windows, at, loc)
	if !open {
		// The spread begins at the opening.
		_, end := topics.InWindow(windows, edge, loc)
		return edge.Add(wave.Delay(position, min(wave.Spread(), end.Sub(edge)))), ReasonWindow
	}
	if now.Before(start) {
		return start, ReasonSpread
	}
	if len(windows) == 0 {
		return time.Time{}, ""
	}
	if opened := opening(windows, start, now, loc); opened.After(start) {
		moment := opened.Add(wave.Delay(position, min(wave.Spread(), edge.Sub(opened))))
		if now.Before(moment) {
			return moment, ReasonSpread
		}
	}
	return time.Time{}, ""
}

// opening is when the unbroken stretch of open windows around now began, or
// since, if it reaches back that far.
func opening(windows []topics.Window, since, now time.Time, loc *time.Location) time.Time {
	if earliest := now.Add(-lookBack); since.Before(earliest) {
		since = earliest
	}
	began := since
	for t := since; ; {
		open, edge := topics.InWindow(windows, t, loc)
		switch {
		case open && edge.After(now):
			return began
		case open:
			t = edge // the end is exclusive: another window may go on from here
		default:
			began, t = edge, edge
		}
		if !edge.After(since) || t.After(now) {
			return began // cannot happen while now is in a window; never loop for ever
		}
	}
}

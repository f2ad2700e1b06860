// Package allowance says what a device may download now: how fast, how much in a day, when,
// and over which link. It knows nothing of what is downloaded, and has nothing to do with
// the session with the broker. Package wake keeps another budget, that of a single wake;
// downloads ask both.
//
// All that comes and goes over the connections of DialContext counts, also what a source
// sends besides artifacts, and what is refused afterwards. So who has bytes from elsewhere,
// from the LAN for instance, brings them by other connections, and they cost nothing here.
//
// # The day
//
// A budget is for a day of the calendar, in the device's time zone: that is how carriers
// count and how people look at a fleet. The day begins within the first hour after midnight,
// at a moment that is each device's own, or all whose budget was spent would come back at
// once. What a day took too much, because a block was begun, is taken from the next one.
//
// What was used is in the journal. It is written down before it is used, a share ahead, so
// after a power cut a device may take its budget for used up a little too early, never too
// late.
//
// The clock is not to be trusted with money. A day is given out once: when the clock goes
// back, the day that had begun goes on. When it is further ahead of what was verified than
// anything signed is good for, it begins no day. So a wrong clock brings forward a few days
// and no more; and since a day in the future would keep the device waiting, 25 hours of
// running begin a new one in any case, as does a time that was verified and is 25 hours
// later: restarts do not begin that anew.
//
// # Windows
//
// A window for downloads is apart from those for installing. When it closes, what is under
// way pauses behind the block on its way, and goes on at the next opening. The openings are
// spread as the days are.
package allowance

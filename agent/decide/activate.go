package decide

import (
	"time"

	"groundswell/topics"
)

// World is what the device holds of what it was told.
type World struct {
	// Assigned is false until an assignment was verified; then nothing is
	// decided.
	Assigned   bool
	Assignment topics.Assignment
	Manifests  map[string]topics.Manifest // by cohort
	// AssignmentUntil and Until (by cohort) are until when these may be acted
	// upon. Zero or absent: not at all.
	AssignmentUntil time.Time
	Until           map[string]time.Time
	View            View
}

// View is how recently the manifests were read.
type View struct {
	// Live: they were read on a session that is up now, so that any change
	// would have come.
	Live bool
	// Opened is when the session on which they were all read last was opened.
	// Zero: not since the agent started, or something else came since that did
	// not verify.
	Opened time.Time
	// Age is how long ago the broker was heard last on that session: what has
	// changed since may not have come.
	Age time.Duration
}

// Staged is an attempt that waits for leave to jump.
type Staged struct {
	Entry      topics.Entry
	Downloaded time.Time // when the last byte was verified
}

// Reasons why a staged device may not jump yet, besides those of Decide.
const (
	ReasonStale   = "stale"   // the manifest has to be read again first
	ReasonMissing = "missing" // a manifest of an assigned cohort is not held
	ReasonExpired = "expired" // what is held has expired, and nothing newer has come
)

// MayActivate is the last look before the jump. d is the decision of now for
// the component, from manifests read as view says. It is Start when the jump
// is allowed, Stop when the attempt is to end, None when there is nothing left to do, Wait otherwise.
func MayActivate(s Staged, d Decision, view View, f Facts, a topics.Assignment, now time.Time) Decision {
	if d.Action != Start {
		return d
	}
	if d.Entry.Release != s.Entry.Release || d.Entry.Version != s.Entry.Version || d.Entry.Target != s.Entry.Target {
		d.Action, d.Reason = Stop, ReasonSuperseded
		return d
	}
	if f.Versions[d.Entry.Component] == s.Entry.Version { // somebody has flashed it by hand meanwhile
		d.Action, d.Reason = None, ReasonSatisfied
		return d
	}
	// A window that was closed since the download spreads those who wait for it
	// anew: a whole fleet that reboots at 22:00 sharp is a herd as well.
	position := topics.Position(f.Bucket, d.Entry.Offset)
	wave, _, _ := topics.WaveOf(d.Entry.Waves, position)
	if until, reason := turn(d.Entry.Windows, wave, position, s.Downloaded, location(a, f), now); reason != "" {
		d.Action, d.Reason, d.Until = Wait, reason, until
		return d
	}
	// The last question, so that ReasonStale means: nothing but that is missing.
	fresh := topics.DefaultFresh
	if d.Entry.FreshSeconds > 0 {
		fresh = time.Duration(d.Entry.FreshSeconds) * time.Second
	}
	if read := view.Live || view.Opened.After(s.Downloaded); !read || view.Age > fresh {
		d.Action, d.Reason = Wait, ReasonStale
	}
	return d
}

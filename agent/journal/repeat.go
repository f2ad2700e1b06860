package journal

import (
	"encoding/json"
	"slices"

	"groundswell/topics"
)

// step is what a status says that is not said again by one that repeats it. What such a
// one is about besides, how far a download is or until when the device waits, is newer.
type step struct {
	Rollout string       `json:"rollout"`
	Attempt int          `json:"attempt"`
	State   topics.State `json:"state"`
	Reason  string       `json:"reason"`
}

func stepOf(report Report) (s step, ok bool) {
	if report.Kind != topics.KindStatus || report.Final {
		return s, false
	}
	return s, json.Unmarshal(report.Payload, &s) == nil
}

// condense has the newest report, if it is a status that repeats a step, take the place of
// those that did before: a device that waits, and is offline, for long would fill the queue
// with them, and they would push out what happened. The first one stays, for it says since
// when; and so does what is being sent. The newest is the last one, for reports are applied
// by their numbers.
func (r *Record) condense() {
	last := r.Queue[len(r.Queue)-1]
	newest, ok := stepOf(last)
	if !ok {
		return
	}
	first := true
	r.Queue = slices.DeleteFunc(r.Queue, func(q Report) bool {
		s, ok := stepOf(q)
		if !ok || s != newest || q.ID == last.ID {
			return false
		}
		again := !first
		first = false
		return again && r.flying[q.ID] == 0
	})
}

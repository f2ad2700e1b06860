package journal

import (
	"encoding/json"
	"slices"
	"time"

	"groundswell/topics"
)

// resave is the time between two attempts to make durable what Load was not sure of.
const resave = time.Minute

// waiting leaves out that an attempt has ended, and what came after it of the same rollout,
// as long as a power cut may take that back: the attempt would go on, and end twice. So that
// is written once more, and nothing else waits for it. Caller holds mu.
func (j *Journal) waiting(n, size int) []Report {
	r := j.get()
	if j.file.Unsure() && r.ends() {
		if j.resaved.IsZero() || time.Since(j.resaved) >= resave {
			j.resaved = time.Now()
			if err := j.save(r); err != nil && !j.withheld {
				j.withheld = true
				j.log.Error("the disk does not confirm what an earlier run wrote last: that an attempt has ended is not reported before it does, or a power cut could have it end twice", "again", resave, "err", err)
			}
		}
		if j.file.Unsure() {
			r.withoutEnds()
		}
	}
	if j.withheld && !j.file.Unsure() {
		j.withheld = false
		j.log.Info("the disk has confirmed what was written: ends of attempts are reported")
	}
	return r.waiting(n, size)
}

// ends reports whether a status in the queue ends an attempt.
func (r *Record) ends() bool {
	return slices.ContainsFunc(r.Queue, func(q Report) bool { return q.Final })
}

// withoutEnds takes the statuses out of the queue that end an attempt, and those behind them
// of the same rollout. Were one of a later attempt sent, the end of the one before would
// be ignored when it comes.
func (r *Record) withoutEnds() {
	ended := map[string]bool{}
	r.Queue = slices.DeleteFunc(r.Queue, func(q Report) bool {
		if q.Kind != topics.KindStatus {
			return false
		}
		var of struct{ Rollout string }
		if json.Unmarshal(q.Payload, &of) != nil {
			return q.Final // of another version of the agent, which nobody here can tell apart
		}
		ended[of.Rollout] = ended[of.Rollout] || q.Final
		return ended[of.Rollout]
	})
}

package journal

import "time"

// Penalty is what an artifact has earned that was on trial here and had to be put back,
// under whatever rollouts: the next one that brings the same bytes waits.
type Penalty struct {
	Count   int       `json:"count"`
	Rollout string    `json:"rollout"` // the newest; its own attempts are counted by Failures
	Last    time.Time `json:"last"`
	// NotBefore is the earliest time of an attempt under another rollout.
	NotBefore time.Time `json:"not_before"`
}

// maxPenalties bounds how many artifacts are remembered.
const maxPenalties = 64

// Penalize counts a trial of an artifact that ended badly. pause is how long others wait
// after so many. The artifact that failed longest ago is forgotten when there are too
// many.
func (r *Record) Penalize(sha256, rollout string, now time.Time, pause func(count int) time.Duration) {
	if r.Penalties == nil {
		r.Penalties = map[string]Penalty{}
	}
	n := r.Penalties[sha256].Count + 1
	r.Penalties[sha256] = Penalty{n, rollout, now, now.Add(pause(n))}
	forget(r.Penalties, maxPenalties, func(p Penalty) time.Time { return p.Last })
}

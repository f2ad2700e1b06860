package decide

import (
	"cmp"
	"slices"
	"time"

	"groundswell/topics"
)

// Facts are what the device knows about itself.
type Facts struct {
	Model    string
	Hardware string // revision
	Bucket   int64
	// Versions is what runs now, by component; other components take no part.
	Versions map[string]string
	// Location is where windows are read when the assignment names no zone.
	// Nil means UTC.
	Location *time.Location
	// Failures counts the failed attempts by rollout; NotBefore is the earliest
	// time of the next one.
	Failures  map[string]int
	NotBefore map[string]time.Time
	// Penalties by artifact: one that was put back here waits under other rollouts.
	Penalties map[string]Penalty
	// Stones are the rollouts whose release requires that the device passes through
	// another one first, as it found out from what the release role signed; they take no
	// part before it has.
	Stones map[string]bool
	// InProgress are the attempts that were started and have not ended, by
	// component.
	InProgress map[string]Attempt
}

// Penalty is of an artifact that was on trial here and had to be put back.
type Penalty struct {
	Rollout   string // that brought it last; its own attempts are counted by Failures
	NotBefore time.Time
}

// Attempt is what an attempt in progress installs.
type Attempt struct {
	Rollout string
	SHA256  string // of the artifact
}

// Action is what to do about a component.
type Action string

// The actions.
const (
	None  Action = "none"  // and nothing will change by waiting
	Wait  Action = "wait"  // look again at Until, or when a manifest changes
	Start Action = "start" // begin, or go on with, the entry
	Stop  Action = "stop"  // end the attempt in progress
)

// Reasons of a decision: slugs that count well.
const (
	ReasonNothing    = "nothing"        // no entry takes part
	ReasonSatisfied  = "satisfied"      // it runs the version already
	ReasonPaused     = "paused"         // the winner is paused
	ReasonGivenUp    = "given-up"       // all attempts failed
	ReasonDowngrade  = "downgrade"      // an update to a lower version
	ReasonWave       = "wave"           // no open wave covers the device yet
	ReasonSpread     = "spread"         // its moment within the wave or window has not come
	ReasonWindow     = "window"         // the maintenance window is closed
	ReasonBackoff    = "backoff"        // the last attempt failed a short while ago
	ReasonPenalty    = "penalty"        // the same bytes were put back here, under another rollout
	ReasonTurn       = "turn"           // its turn has come
	ReasonInProgress = "started"        // it was started before
	ReasonSuperseded = "superseded"     // another entry wins now
	ReasonCancelled  = "cancelled"      // the entry is gone
	ReasonStone      = "stepping-stone" // its release requires that another is passed through first
)

// Decision is about one component.
type Decision struct {
	Action Action
	Reason string
	// Until is when to look again; zero: when a manifest changes.
	Until time.Time
	// Entry is the winner and Cohort whose manifest holds it. With Stop because
	// of ReasonCancelled, and with ReasonNothing and ReasonExpired, there is no
	// entry.
	Entry  topics.Entry
	Cohort string
	// Wave is the index of the open wave that covers the device, -1 if none.
	Wave int
}

// Decide decides per component. If manifests of assigned cohorts are not held,
// missing names them in order and there are no decisions. While the assignment
// or one of them has expired, every decision is to wait, with ReasonExpired and
// the cohort whose manifest it is: it may hide a pause.
func Decide(w World, f Facts, now time.Time) (decisions map[string]Decision, missing []string) {
	a, manifests := w.Assignment, w.Manifests
	for _, cohort := range a.Cohorts {
		if _, ok := manifests[cohort]; !ok {
			missing = append(missing, cohort)
		}
	}
	if missing != nil {
		slices.Sort(missing)
		return nil, missing
	}
	decisions = map[string]Decision{}
	if cohort, yes := expired(w, now); yes {
		for component := range f.Versions {
			decisions[component] = Decision{Action: Wait, Reason: ReasonExpired, Cohort: cohort, Wave: -1}
		}
		return decisions, nil
	}
	for component := range f.Versions {
		decisions[component] = decideComponent(component, a, manifests, f, now)
	}
	return decisions, nil
}

// expired reports whether something that is decided by has expired, and of which
// cohort: "" for the assignment.
func expired(w World, now time.Time) (cohort string, yes bool) {
	if !now.Before(w.AssignmentUntil) {
		return "", true
	}
	for _, cohort := range w.Assignment.Cohorts {
		if !now.Before(w.Until[cohort]) {
			return cohort, true
		}
	}
	return "", false
}

// candidate is an entry with the cohort whose manifest holds it.
type candidate struct {
	topics.Entry
	cohort string
}

func decideComponent(component string, a topics.Assignment, manifests map[string]topics.Manifest, f Facts, now time.Time) Decision {
	attempt, busy := f.InProgress[component]
	winners := winner(taking(component, a, manifests, f), f)
	if len(winners) == 0 {
		if busy {
			return Decision{Action: Stop, Reason: ReasonCancelled, Wave: -1}
		}
		return Decision{Action: None, Reason: ReasonNothing, Wave: -1}
	}
	// One rollout may stand in several manifests with the same revision: a
	// canary cohort has a wave of its own. The device takes its earliest turn.
	loc := location(a, f)
	var best Decision
	for i, w := range winners {
		d := consider(w, attempt, busy, f, loc, now)
		if i == 0 || earlier(d, best) {
			best = d
		}
	}
	return best
}

// taking lists the entries that the device qualifies for, of each rollout only
// those of the highest revision.
func taking(component string, a topics.Assignment, manifests map[string]topics.Manifest, f Facts) []candidate {
	newest := map[string]int64{}
	var all []candidate
	for _, cohort := range a.Cohorts {
		for _, e := range manifests[cohort].Entries {
			all = append(all, candidate{e, cohort})
			newest[e.Rollout] = max(newest[e.Rollout], e.Revision)
		}
	}
	return slices.DeleteFunc(all, func(c candidate) bool {
		return c.Component != component || c.Revision != newest[c.Rollout] || !qualifies(c.Entry, f)
	})
}

func qualifies(e topics.Entry, f Facts) bool {
	if !slices.Contains(e.Models, f.Model) || len(e.Hardware) > 0 && !slices.Contains(e.Hardware, f.Hardware) {
		return false
	}
	running := f.Versions[e.Component]
	if running == e.Version || f.InProgress[e.Component].Rollout == e.Rollout {
		return true
	}
	if f.Stones[e.Rollout] {
		return false
	}
	ok, err := topics.Satisfies(running, e.From)
	return err == nil && ok // both were validated; if not, it takes no part
}

// winner returns the candidates of the winning rollout.
func winner(candidates []candidate, f Facts) []candidate {
	if len(candidates) == 0 {
		return nil
	}
	contenders := make([]topics.Contender, len(candidates))
	for i, c := range candidates {
		contenders[i] = c.Contender()
	}
	component := candidates[0].Component
	best := topics.Winner(contenders, f.Versions[component], f.InProgress[component].Rollout)
	return slices.DeleteFunc(candidates, func(c candidate) bool { return c.Rollout != best })
}

func consider(w candidate, attempt Attempt, busy bool, f Facts, loc *time.Location, now time.Time) Decision {
	d := Decision{Entry: w.Entry, Cohort: w.cohort, Wave: -1}
	position := topics.Position(f.Bucket, w.Offset)
	wave, start, covered := topics.WaveOf(w.Waves, position)
	if covered {
		d.Wave = wave.Index
	}
	end := func(action Action, reason string) Decision {
		d.Action, d.Reason = action, reason
		return d
	}
	running := f.Versions[w.Component]
	mine := busy && attempt.Rollout == w.Rollout && attempt.SHA256 == w.Target.SHA256
	switch {
	case busy && !mine:
		return end(Stop, ReasonSuperseded)
	case w.State == topics.EntryPaused && busy:
		return end(Stop, ReasonPaused)
	case busy && w.Kind != topics.EntryRevert && lower(w.Version, running):
		return end(Stop, ReasonDowngrade) // somebody has installed a newer one by hand meanwhile
	case busy:
		return end(Start, ReasonInProgress)
	case running == w.Version:
		return end(None, ReasonSatisfied)
	case w.State == topics.EntryPaused:
		return end(None, ReasonPaused)
	case f.Failures[w.Rollout] >= attempts(w.Entry):
		return end(None, ReasonGivenUp)
	case w.Kind != topics.EntryRevert && lower(w.Version, running):
		return end(None, ReasonDowngrade)
	case !covered:
		return end(Wait, ReasonWave)
	}
	if until, reason := turn(startWindows(w.Entry), wave, position, start, loc, now); reason != "" {
		d.Until = until
		return end(Wait, reason)
	}
	if until := f.NotBefore[w.Rollout]; now.Before(until) {
		d.Until = until
		return end(Wait, ReasonBackoff)
	}
	if p := f.Penalties[w.Target.SHA256]; p.Rollout != w.Rollout && now.Before(p.NotBefore) {
		d.Until = p.NotBefore
		return end(Wait, ReasonPenalty)
	}
	return end(Start, ReasonTurn)
}

// startWindows are those in which a device may start, which is to download.
func startWindows(e topics.Entry) []topics.Window {
	if len(e.DownloadWindows) > 0 {
		return e.DownloadWindows
	}
	return e.Windows
}

// lower reports whether version a is below b, or cannot be compared with it.
func lower(a, b string) bool {
	n, err := topics.CompareVersions(a, b)
	return err != nil || n < 0
}

// attempts is how often a device may try the entry.
func attempts(e topics.Entry) int {
	if e.Attempts == 0 {
		return topics.DefaultAttempts
	}
	return e.Attempts
}

// earlier reports whether decision a gives the device an earlier turn than b.
func earlier(a, b Decision) bool {
	rank := func(d Decision) int {
		switch {
		case d.Action == Start:
			return 0
		case d.Action == Wait && !d.Until.IsZero():
			return 1
		case d.Action == Wait:
			return 2
		}
		return 3
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Until.Compare(b.Until)) < 0
}

// location is where the device's windows are read.
func location(a topics.Assignment, f Facts) *time.Location { return Location(a, f.Location) }

// Location is where windows are read: in the assignment's zone, or else in the device's
// own; nil means UTC.
func Location(a topics.Assignment, own *time.Location) *time.Location {
	if a.TimeZone != "" {
		if loc, err := time.LoadLocation(a.TimeZone); err == nil { // the assignment was validated
			return loc
		}
	}
	if own != nil {
		return own
	}
	return time.UTC
}

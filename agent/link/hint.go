package link

import (
	"encoding/json"
	"slices"

	"groundswell/agent/journal"
	"groundswell/topics"
)

// hint is which cohorts the device was in last, so that it can ask for their manifests
// together with its assignment. Nobody relies on it: a wrong one costs a round trip.
type hint struct {
	file *journal.File // nil: none is kept

	// Guarded by Link.mu.
	cohorts []string
	early   map[string][]byte // by topic: manifests that came before the assignment
}

// recall reads the hint.
func (l *Link) recall() {
	if l.hint.file == nil {
		return
	}
	raw, _, err := l.hint.file.Load()
	var cohorts []string
	if err != nil || json.Unmarshal(raw, &cohorts) != nil || len(cohorts) > topics.MaxCohorts ||
		slices.ContainsFunc(cohorts, func(c string) bool { return !topics.ValidID(c) }) {
		return // none, or of no use
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hint.cohorts = cohorts
}

// remember writes the hint, if it is another.
func (l *Link) remember(cohorts []string) {
	l.mu.Lock()
	same := slices.Equal(l.hint.cohorts, cohorts)
	l.hint.cohorts = slices.Clone(cohorts)
	l.mu.Unlock()
	if same || l.hint.file == nil {
		return
	}
	raw, err := json.Marshal(cohorts)
	if err == nil {
		err = l.hint.file.Save(raw)
	}
	if err != nil {
		l.log.Warn("the cohorts cannot be noted: the first check-in after a start takes another round trip", "err", err)
	}
}

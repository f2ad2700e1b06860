package link

import (
	"context"
	"maps"
	"time"

	"groundswell/topics"
)

// keepRoots looks for newer roots when something was refused that they might
// cure, and verifies everything again when there was one.
func (l *Link) keepRoots(ctx context.Context) error {
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.verifier.RootsChanged():
			l.again()
		case <-l.curable:
			// Whoever sends rubbish must not make devices hammer the sources.
			if wait := l.cfg.RootPause - time.Since(last); !last.IsZero() && wait > 0 {
				timer := time.NewTimer(wait)
				select {
				case <-ctx.Done():
					timer.Stop()
					return nil
				case <-timer.C:
				}
			}
			last = time.Now()
			if err := l.verifier.WalkRoots(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("cannot look for newer roots", "err", err)
			}
		}
	}
}

// again verifies what is held and what was refused under the roots of now.
// What no longer verifies is forgotten, and the connection's next check-in
// brings what does.
func (l *Link) again() {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	assignment, manifests, refused := l.assignment, maps.Clone(l.manifests), maps.Clone(l.refused)
	l.mu.Unlock()
	if assignment != nil {
		if until, err := l.still(assignment.raw, ""); err != nil {
			l.log.Warn("assignment no longer verifies", "err", err)
			l.change(func() { l.assignment = nil; l.doubt(topics.DeviceAssignment(l.cfg.Device)) })
		} else {
			l.change(func() { l.assignment = &held[topics.Assignment]{assignment.body, assignment.raw, until} })
		}
	}
	for cohort, m := range manifests {
		if until, err := l.still(m.raw, cohort); err != nil {
			l.log.Warn("manifest no longer verifies", "cohort", cohort, "err", err)
			l.change(func() { delete(l.manifests, cohort); l.doubt(topics.CohortManifest(cohort)) })
		} else {
			l.change(func() { l.manifests[cohort] = held[topics.Manifest]{m.body, m.raw, until} })
		}
	}
	for topic, raw := range refused {
		l.takeLocked(topic, raw)
	}
	l.mu.Lock()
	c := l.conn
	l.mu.Unlock()
	if c != nil {
		remind(c.resubscribe)
	}
	remind(l.changed)
}

// still verifies what is held once more: the manifest of a cohort, or the
// assignment.
func (l *Link) still(raw []byte, cohort string) (until time.Time, err error) {
	if cohort == "" {
		_, err = l.verifier.Assignment(raw)
	} else {
		_, err = l.verifier.Manifest(raw, cohort)
	}
	if err != nil {
		return time.Time{}, err
	}
	return l.verifier.Until(raw)
}

func (l *Link) change(what func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what()
}

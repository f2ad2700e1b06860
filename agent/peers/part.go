package peers

import (
	"context"
	"time"

	"groundswell/agent/condition"
)

// again is the time between two looks at what the device runs on.
const again = 10 * time.Second

// takePart finds out whether the device may take part, until ctx ends.
func (s *Site) takePart(ctx context.Context) {
	facts := condition.Config{Facts: s.opt.Facts}
	var fact string
	var due time.Time
	for ctx.Err() == nil {
		if len(facts.Facts) > 0 && !time.Now().Before(due) {
			hold, wait := facts.Look(ctx, condition.Install), defaultAgain
			fact = ""
			if hold != nil {
				fact, wait = hold.Reason+": "+hold.Detail, hold.Again
			} else {
				for _, f := range facts.Facts {
					if f.Again > 0 {
						wait = min(wait, f.Again)
					}
				}
			}
			due = time.Now().Add(wait)
		}
		why := fact
		if s.opt.Mains != nil && !s.opt.Mains() {
			why = "the device runs on its battery"
		}
		s.setOut(why)
		_ = pause(ctx, again)
	}
}

// defaultAgain is how long it is good for that facts hold, where they do not say.
const defaultAgain = 5 * time.Minute

func (s *Site) setOut(why string) {
	s.mu.Lock()
	before := s.out
	s.out = why
	s.mu.Unlock()
	if before == why {
		return
	}
	if why != "" {
		s.opt.Log.Info("takes no part among the site's devices", "why", why)
	} else {
		s.opt.Log.Info("takes part among the site's devices", "name", s.name)
	}
	s.announce()
}

// Out is why the device takes no part; "": it does.
func (s *Site) Out() string {
	if s == nil {
		return "no peers"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out
}

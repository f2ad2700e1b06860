package peers

import (
	"errors"
	"math/rand/v2"
	"time"

	"groundswell/internal/block"
	"groundswell/topics"
)

// conduct is what is remembered of how a device behaves, or a place where nobody has
// proved yet who is there. It outlives what is announced, which anybody may say. Site.mu
// guards it.
type conduct struct {
	until   time.Time // it is passed over until then
	strikes int
	good    int       // blocks since the last strike was forgiven
	busy    time.Time // it wants to be left alone until then
	refused int       // how often it was busy since it sent a block
	idle    time.Time // it is given no turn until then
	dropped bool      // it has sent a wrong block
}

// pass passes over whoever it is of, and says for how long.
func (c *conduct) pass(now time.Time, most time.Duration) time.Duration {
	c.refused = 0
	c.strikes++
	long := min(passTime<<min(c.strikes-1, 10), most)
	c.until = now.Add(long)
	return long
}

// passTime is how long a neighbour is passed over that did not deliver, doubled with each
// time up to maxPass; a place where nobody answers, up to maxAway, for who comes back
// there is not to blame.
const (
	passTime = 30 * time.Second
	maxPass  = time.Hour
	maxAway  = 5 * time.Minute
	// maxRefused is how often a peer may be busy before that counts.
	maxRefused = 3
	// forgiven is how many right blocks make good for one time.
	forgiven = 32
	// maxConducts bounds what is remembered of devices, and of places. More certificates
	// than that are not stolen on one site without somebody noticing.
	maxConducts = 1024
)

// remembered is what a map has of a key, or a new one. Where there is no room, what is
// held against nobody any more is forgotten first; then, where all may forget, any.
func remembered(list map[string]*conduct, key string, now time.Time, any bool) *conduct {
	if c := list[key]; c != nil {
		return c
	}
	c := &conduct{}
	if len(list) >= maxConducts {
		var keys []string
		for k, old := range list {
			if old.strikes == 0 && !old.dropped || any && now.After(old.until) {
				delete(list, k)
			} else {
				keys = append(keys, k)
			}
		}
		if any && len(list) >= maxConducts {
			delete(list, keys[rand.N(len(keys))])
		}
	}
	if len(list) < maxConducts {
		list[key] = c
	}
	return c
}

// usable reports whether a neighbour may be asked now. The caller holds mu.
func (s *Site) usable(n *neighbour, now time.Time) bool {
	place := s.places[n.addr]
	return !now.Before(n.until) && !n.dropped && n.name != s.name && (place == nil || !now.Before(place.until))
}

// passes reports whether a neighbour is passed over now.
func (s *Site) passes(n *neighbour) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.usable(n, time.Now())
}

// fault judges what came of asking a neighbour. What it has proved to be is held against
// its certificate; that nobody is there, against the place.
func (s *Site) fault(n *neighbour, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var later busyError
	switch {
	case errors.Is(err, block.ErrWrong):
		s.faults = s.faults.Plus(topics.PeerFaults{Wrong: 1})
		// The transport keeps blocks from being changed on their way.
		n.dropped, n.proven = true, false
		s.opt.Log.Warn("a peer sends wrong blocks, it is not asked again", "peer", n.device, "addr", n.addr, "err", err)
	case errors.As(err, &later) && n.refused < maxRefused:
		n.busy = now.Add(later.after)
		n.refused++
	case errors.Is(err, errUnknown), errors.Is(err, errWithdrawn), errors.Is(err, errSelf):
	case errors.Is(err, errAway):
		s.faults = s.faults.Plus(topics.PeerFaults{Away: 1})
		long := remembered(s.places, n.addr, now, true).pass(now, maxAway)
		n.proven = false
		if !n.static && s.near[n.addr] == n {
			delete(s.near, n.addr)
			if n.device != "" && now.Before(n.expires) {
				// It restarts, maybe: it is a stranger again, and tried when its place may be.
				s.near[n.addr] = &neighbour{conduct: &conduct{}, addr: n.addr, name: n.name, artifacts: n.artifacts, announced: n.announced, expires: n.expires, queued: now}
			}
		}
		s.opt.Log.Info("no peer is where one was announced", "peer", n.device, "addr", n.addr, "for", long, "err", err)
	default:
		if !errors.Is(err, errDropped) { // that was counted
			s.faults = s.faults.Plus(topics.PeerFaults{Failed: 1})
		}
		n.proven = false
		s.opt.Log.Info("a peer is passed over", "peer", n.device, "addr", n.addr, "for", n.pass(now, maxPass), "err", err)
	}
}

// Faults is what others did wrong since it was called last. A nil Site has none.
func (s *Site) Faults() topics.PeerFaults {
	if s == nil {
		return topics.PeerFaults{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := s.faults
	s.faults = topics.PeerFaults{}
	return faults
}

// praise notes that a neighbour has sent a right block. One that came late makes nothing good.
func (s *Site) praise(n *neighbour, prompt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.proven, n.refused = true, 0
	if !prompt {
		return
	}
	if n.good++; n.good >= forgiven && n.strikes > 0 {
		n.good, n.strikes = 0, n.strikes-1
	}
}

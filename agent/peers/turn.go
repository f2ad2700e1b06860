package peers

import (
	"context"
	"crypto/sha256"
	"errors"
	"strconv"
	"time"
)

// errLate: who was to fetch did not, in time.
var errLate = errors.New("peer does not deliver in time")

// Turn waits until block i, of segment n that has the blocks [first, end), is there to
// be had from a peer, or may be: then it is not this device's turn to fetch it from the
// origin. It is when nobody else has it or is about to. The error is ctx's.
func (sh *Share) Turn(ctx context.Context, n, first, end, i int) (mine bool, err error) {
	if sh == nil {
		return true, nil
	}
	for {
		if sh.site.Out() != "" || sh.tries() {
			return true, nil
		}
		who := sh.leader(i)
		if who == nil {
			sh.refresh(ctx)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if sh.Has(i) {
				return false, nil
			}
			if who = sh.leader(i); who == nil {
				if wait := time.Until(sh.settle); wait > 0 {
					if err := pause(ctx, min(wait, 200*time.Millisecond)); err != nil {
						return false, err
					}
					continue
				}
				who = sh.elect(n, first, end, i)
			}
		}
		if who == nil {
			return true, nil
		}
		if err := sh.await(ctx, who, i); err != nil {
			return false, err
		}
		if sh.Has(i) {
			return false, nil
		}
	}
}

// leader is a neighbour that says that it fetches block i, the same one as long as it
// does; nil: there is none.
func (sh *Share) leader(i int) *neighbour {
	now := time.Now()
	fetching := func(n *neighbour, v state) bool {
		return v.Fetching > i && v.Have <= i && !now.Before(n.busy) && !sh.late(n, v, i)
	}
	list := sh.seen(fetching)
	sh.turn.leader = first(list, func(a, b *neighbour) bool {
		if a == sh.turn.leader || b == sh.turn.leader {
			return a == sh.turn.leader
		}
		return sh.view(a).Have > sh.view(b).Have
	})
	return sh.turn.leader
}

func first(list []*neighbour, before func(a, b *neighbour) bool) (best *neighbour) {
	for _, n := range list {
		if best == nil || before(n, best) {
			best = n
		}
	}
	return best
}

// late reports whether a neighbour was waited for long enough. The caller holds Site.mu.
func (sh *Share) late(n *neighbour, v state, i int) bool {
	if sh.spent() {
		return true
	}
	limit := sh.site.opt.Grace
	if v.Fetching > i {
		limit = 10 * sh.site.opt.Patience
	}
	return sh.turn.waited[n.device] >= limit
}

// elect is whose turn it is to fetch a segment; nil: this device's. Somebody who has the
// block and is busy goes before all.
func (sh *Share) elect(segment, first, end, i int) (best *neighbour) {
	now := time.Now()
	var busy *neighbour
	names := map[*neighbour]string{}
	for _, n := range sh.seen(func(n *neighbour, v state) bool {
		if n.name == "" || sh.late(n, v, i) {
			return false
		}
		if v.Have > i {
			busy = n
			return false
		}
		names[n] = n.name
		return takes(n, v, first, end, now)
	}) {
		if best == nil || weight(sh.short(), segment, names[n]) > weight(sh.short(), segment, names[best]) {
			best = n
		}
	}
	switch {
	case busy != nil:
		return busy
	case best != nil && sh.follows:
		return best
	case best != nil && weight(sh.short(), segment, names[best]) > weight(sh.short(), segment, sh.site.name):
		return best
	}
	return nil
}

// takes reports whether a neighbour may have the turn for the blocks [first, end). Whoever is
// far behind would keep the others waiting. The caller holds Site.mu.
func takes(n *neighbour, v state, first, end int, now time.Time) bool {
	return v.Making && !now.Before(n.idle) && !now.Before(n.busy) && v.Have+2*(end-first) >= first
}

func (sh *Share) short() string { return sh.offer.artifact[:shortDigest] }

// weight orders who fetches a segment: highest random weight (Thaler and Ravishankar,
// 1998), so that all agree who see the same ones.
func weight(artifact string, segment int, name string) string {
	sum := sha256.Sum256([]byte(artifact + "/" + strconv.Itoa(segment) + "/" + name))
	return string(sum[:])
}

// await waits for a neighbour to have block i, for as long as it may take.
func (sh *Share) await(ctx context.Context, n *neighbour, i int) error {
	s := sh.site
	before := sh.view(n)
	limit := s.opt.Grace
	if before.Fetching > i {
		limit = s.opt.Patience
	}
	began := time.Now()
	var v state
	var err error
	if before.Have > i { // it is busy
		s.mu.Lock()
		until := n.busy
		s.mu.Unlock()
		if err := pause(ctx, min(limit, time.Until(until))); err != nil {
			return err
		}
	} else {
		v, err = s.ask(ctx, n, sh.offer.artifact, i, min(limit, maxWait))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		sh.heard(n, v, err)
	}
	// One that answers at once, and with nothing, is not asked again at once.
	if v.Have <= i && before.Have <= i {
		if err := pause(ctx, min(limit, leastWait)-time.Since(began)); err != nil {
			return err
		}
	}
	spent := time.Since(began)
	device := sh.device(n)
	sh.turn.waited[device] += spent
	sh.turn.all += spent
	sh.turn.untried += spent
	switch waited := sh.turn.waited[device]; {
	case err != nil: // heard has judged it
	case waited >= 10*s.opt.Patience:
		s.fault(n, errLate) // whatever it answers, and although its blocks come
	case before.Have > i || v.Have > i:
	case before.Fetching > i && v.Fetching > i && spent >= limit:
		s.fault(n, errLate)
	case v.Fetching <= i && waited >= s.opt.Grace:
		// It may be the better peer once it gets on, so its blocks are still asked for.
		s.mu.Lock()
		n.idle = time.Now().Add(passTime)
		s.mu.Unlock()
	}
	return nil
}

// leastWait is the least time between two questions to one that does not have the block
// yet.
const leastWait = 200 * time.Millisecond

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package assemble

import "groundswell/internal/block"

// kind names a way.
type kind string

const (
	kindLocal    kind = "local"
	kindPeer     kind = "peer"
	kindDelta    kind = "delta"
	kindExpanded kind = "expanded delta"
	kindPacked   kind = "packed"
	kindFull     kind = "full"
)

// bySegments is whether a way makes whole segments, whatever of them is there.
func (k kind) bySegments() bool { return k == kindDelta || k == kindExpanded }

// spoiling is a segment that is not to be had by a way.
type spoiling struct {
	kind    kind
	segment int
}

// step is what to do next: blocks [first, end) by a way.
type step struct {
	kind       kind
	first, end int
	units      []unit // none for kindLocal and kindPeer
}

// plan chooses how each segment of an artifact is made: by the fewest fetched bytes, or on
// battery by the least energy.
type plan struct {
	index    block.Index
	segments []segment
	local    func(block.Block) bool
	// ways that are open; kindFull always is.
	ways map[kind]way
	// spoilt is by which ways segments are not to be had.
	spoilt map[spoiling]bool
	// peer says whether a peer has block i, whose bytes cost nothing but the LAN.
	peer func(i int) bool
	// stretch is how many segments may be fetched at once; 0: any number.
	stretch func() int
	// energy is what to weigh; nil: bytes alone.
	energy *Energy
	// limit is how many bytes the next step may bring if it brings more than one unit; 0:
	// any number.
	limit int64
}

// cost is what a unit costs: in bytes, or in µJ.
func (p *plan) cost(u unit) int64 {
	if p.energy != nil {
		return p.energy.of(u)
	}
	return u.cost()
}

// unit is what block i is made by; follows: right behind the unit before it.
func (p *plan) unit(k kind, i int, follows bool) unit {
	u := p.ways[k].unit(i)
	switch w, ok := p.ways[k].(*expanded); {
	case ok && follows:
		return w.following(u)
	case ok && !w.follows(u):
		return w.spread(u, p.limit)
	}
	return u
}

// choice is how the rest of segment n is made, from block at on. behind is by which way the
// segment before it is made in the same step; "": by none.
func (p *plan) choice(n, at int, behind kind) kind {
	end := p.segments[n].end
	missing := false
	costs := map[kind]int64{}
	for i := at; i < end; i++ {
		if p.local(p.index.Blocks[i]) {
			continue
		}
		missing = true
		for _, k := range []kind{kindPacked, kindFull} {
			if w := p.ways[k]; w != nil && !p.spoilt[spoiling{k, n}] {
				costs[k] += p.cost(w.unit(i))
			}
		}
	}
	if !missing {
		return kindLocal
	}
	if w := p.ways[kindDelta]; w != nil && !p.spoilt[spoiling{kindDelta, n}] {
		costs[kindDelta] = p.cost(w.unit(at))
	}
	if w := p.ways[kindExpanded]; w != nil && !p.spoilt[spoiling{kindExpanded, n}] {
		if u := p.unit(kindExpanded, at, behind == kindExpanded); u.cost() <= maxUnit {
			costs[kindExpanded] = p.cost(u)
		}
	}
	best := kindFull
	for _, k := range []kind{kindPacked, kindDelta, kindExpanded} { // the first of equals is the simplest to decode
		if c, ok := costs[k]; ok && c < costs[best] {
			best = k
		}
	}
	return best
}

// next is what to do from block at on: as much as one request can bring, of at most
// limit bytes if at least one unit fits into them, else one unit; 0: no limit.
func (p *plan) next(at int, limit int64) step {
	p.limit = limit
	n := segmentAt(p.segments, at)
	k := p.choice(n, at, "")
	if k == kindLocal || !k.bySegments() && p.local(p.index.Blocks[at]) {
		end := at + 1
		for end < p.segments[n].end && p.local(p.index.Blocks[end]) {
			end++
		}
		return step{kind: kindLocal, first: at, end: end}
	}
	if p.peer(at) {
		return step{kind: kindPeer, first: at, end: at + 1}
	}
	s := step{kind: k, first: at, end: at}
	cost, begun, most := int64(0), n, p.stretch()
	for s.end < len(p.index.Blocks) {
		if s.end == p.segments[n].end {
			n++
			if p.choice(n, s.end, k) != k || most > 0 && n == begun+most {
				break
			}
		}
		if !k.bySegments() && p.local(p.index.Blocks[s.end]) {
			break
		}
		u := p.unit(k, s.end, len(s.units) > 0)
		if len(s.units) > 0 && (u.from != s.units[len(s.units)-1].to || limit > 0 && cost+u.cost() > limit) {
			break
		}
		s.units = append(s.units, u)
		s.end = u.end
		cost += u.cost()
	}
	return s
}

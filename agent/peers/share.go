package peers

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"groundswell/internal/block"
)

// Share is an artifact that this device makes, and that others of the site have or make.
// Its methods are for the one that makes it. A nil Share has no peers.
type Share struct {
	site   *Site
	offer  *offer
	index  block.Index
	settle time.Time // from then on it may be fetched

	mu    sync.Mutex // guards views; taken before Site.mu
	views map[*neighbour]state
	turn  turn
}

// turn is what was waited for in a segment.
type turn struct {
	segment int
	leader  *neighbour
	waited  map[*neighbour]time.Duration
}

// Join makes known that the artifact is made in the file at path, until Leave. Nil when
// this device takes no part.
func (s *Site) Join(artifact string, index block.Index, path string) *Share {
	if s == nil || s.Out() != "" {
		return nil
	}
	o := newOffer(artifact, index.Length)
	o.path = path
	o.know(index.Blocks)
	s.mu.Lock()
	s.put(o)
	s.mu.Unlock()
	s.announce()
	return &Share{
		site: s, offer: o, index: index, settle: time.Now().Add(s.opt.Settle), views: map[*neighbour]state{},
		turn: turn{segment: -1, waited: map[*neighbour]time.Duration{}},
	}
}

// Leave ends it. What there is is still given to others.
func (sh *Share) Leave() {
	if sh == nil {
		return
	}
	sh.set(func(o *offer) { o.making, o.fetching = false, 0 })
}

// Have says that the first n blocks are there.
func (sh *Share) Have(n int) {
	if sh == nil {
		return
	}
	sh.set(func(o *offer) { o.have = n })
}

// Fetches says that the blocks below end are being fetched from the origin, until done is
// called.
func (sh *Share) Fetches(end int) (done func()) {
	if sh == nil {
		return func() {}
	}
	sh.set(func(o *offer) { o.fetching = end })
	return func() { sh.set(func(o *offer) { o.fetching = 0 }) }
}

func (sh *Share) set(change func(*offer)) {
	sh.site.mu.Lock()
	defer sh.site.mu.Unlock()
	change(sh.offer)
	sh.offer.tell()
}

// Alone reports whether nobody was seen who has the artifact or makes it.
func (sh *Share) Alone() bool {
	if sh == nil {
		return true
	}
	return len(sh.seen(func(_ *neighbour, v state) bool { return v.Making || v.Have > 0 })) == 0
}

// Has reports whether a peer says that it has block i, and may be asked now.
func (sh *Share) Has(i int) bool {
	if sh == nil || sh.site.Out() != "" {
		return false
	}
	return len(sh.holders(i)) > 0
}

func (sh *Share) holders(i int) []*neighbour {
	now := time.Now()
	return sh.seen(func(n *neighbour, v state) bool { return v.Have > i && !now.Before(n.busy) })
}

// seen are the usable neighbours for whom a condition holds, in no order.
func (sh *Share) seen(want func(*neighbour, state) bool) (list []*neighbour) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.site.mu.Lock()
	defer sh.site.mu.Unlock()
	now := time.Now()
	for n, v := range sh.views {
		if sh.site.usable(n, now) && want(n, v) {
			list = append(list, n)
		}
	}
	return list
}

func (sh *Share) view(n *neighbour) state {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.views[n]
}

// note keeps what a neighbour has said, or forgets it.
func (sh *Share) note(n *neighbour, v state, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err != nil {
		delete(sh.views, n)
		return
	}
	v.Have, v.Fetching = min(v.Have, len(sh.index.Blocks)), min(v.Fetching, len(sh.index.Blocks))
	sh.views[n] = v
}

// Block fetches block i from a peer into buffer, which has its length. Whoever sends
// another one is dropped, and the next is asked; ErrNobody when nobody is left. received
// is how many bytes came from all of them.
func (sh *Share) Block(ctx context.Context, i int, buffer []byte) (received int64, err error) {
	for {
		if ctx.Err() != nil {
			return received, ctx.Err()
		}
		holders := sh.holders(i)
		if len(holders) == 0 {
			return received, ErrNobody
		}
		n := holders[rand.N(len(holders))]
		k, err := sh.site.block(ctx, n, sh.index.Blocks[i], buffer)
		received += k
		if err == nil {
			sh.site.praise(n)
			return received, nil
		}
		if ctx.Err() != nil {
			return received, ctx.Err()
		}
		if errors.Is(err, errUnknown) {
			err = errClaim
		}
		sh.site.fault(n, err)
		if _, ok := err.(busyError); !ok {
			sh.forget(n, i)
		}
	}
}

// errClaim: it said that it has the block. It would say so again.
var errClaim = errors.New("peer does not have what it says")

// forget corrects what a neighbour said: it does not have block i.
func (sh *Share) forget(n *neighbour, i int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if v, ok := sh.views[n]; ok && v.Have > i {
		v.Have = i
		sh.views[n] = v
	}
}

// maxAsked is how many neighbours are asked about one artifact.
const maxAsked = 16

// refresh asks the neighbours what they have: at most maxAsked, the same on all devices
// that see the same ones.
func (sh *Share) refresh(ctx context.Context) {
	s := sh.site
	short := sh.short()
	now := time.Now()
	s.mu.Lock()
	var list []*neighbour
	for _, n := range s.near {
		if s.usable(n, now) && (n.static || slices.Contains(n.artifacts, short)) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *neighbour) int {
		return strings.Compare(weight(short, 0, b.name+b.addr), weight(short, 0, a.name+a.addr))
	})
	s.mu.Unlock()
	var asking sync.WaitGroup
	for _, n := range list[:min(len(list), maxAsked)] {
		asking.Go(func() {
			v, err := s.ask(ctx, n, sh.offer.artifact, 0, 0)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.fault(n, err)
			}
			if _, ok := err.(busyError); !ok {
				sh.note(n, v, err)
			}
		})
	}
	asking.Wait()
}

// shortDigest is how many digits of a digest are announced.
const shortDigest = 16

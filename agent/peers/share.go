package peers

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
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
	turn   turn
	own    own
	// follows: it fetches nothing from the origin, and never has its turn.
	follows bool
	// withdrawals are how often a device took back that it has a block.
	withdrawals map[string]int

	end      context.CancelFunc
	life     context.Context // until Leave, for those whom nobody waits for
	asking   sync.WaitGroup  // about them
	patience time.Duration   // left for waiting for them

	mu      sync.Mutex // guards what follows; taken before Site.mu
	views   map[*neighbour]state
	without map[*neighbour]time.Time // when it said that it has nothing
	asked   map[*neighbour]bool      // and has not answered yet
}

// Join makes known that the artifact is made in the file at path, until Leave. Nil when
// this device takes no part.
func (s *Site) Join(artifact string, index block.Index, path string) *Share {
	return s.join(artifact, index, path, 0, false)
}

// Follow is Join for a device that fetches nothing from the origin now: nobody waits for it,
// and Turn says that it is its turn when nobody else brings a block. The first have blocks
// seem to be there.
func (s *Site) Follow(artifact string, index block.Index, path string, have int) *Share {
	return s.join(artifact, index, path, have, true)
}

func (s *Site) join(artifact string, index block.Index, path string, have int, follows bool) *Share {
	if s == nil || s.Out() != "" {
		return nil
	}
	o := newOffer(artifact, index.Length)
	o.path, o.making, o.have = path, !follows, have
	o.blocks = blocksOf(index)
	s.mu.Lock()
	// What was given until now still is, or others would ask for it in vain. What was not
	// what it should be is not given before it was looked at.
	i := slices.IndexFunc(s.offers, func(old *offer) bool { return old.artifact == artifact && old.path == path })
	switch {
	case i < 0:
	case follows:
		o.have = min(have, s.offers[i].sound)
	default:
		o.have = s.offers[i].given()
	}
	s.put(o)
	s.mu.Unlock()
	s.announce()
	sh := &Share{
		site: s, offer: o, index: index, follows: follows, settle: time.Now().Add(s.opt.Settle), patience: maxStrangers, withdrawals: map[string]int{},
		turn:  turn{waited: map[string]time.Duration{}, brought: map[string]*brought{}},
		views: map[*neighbour]state{}, without: map[*neighbour]time.Time{}, asked: map[*neighbour]bool{},
	}
	sh.life, sh.end = context.WithCancel(context.Background())
	return sh
}

// Leave ends it. What there is is still given to others.
func (sh *Share) Leave() {
	if sh == nil {
		return
	}
	sh.end()
	sh.asking.Wait()
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
	began, from := time.Now(), 0
	sh.set(func(o *offer) { o.fetching, from = end, o.have })
	return func() {
		sh.set(func(o *offer) { o.fetching, end = 0, o.have })
		sh.own.note(sh.index.Blocks[from:max(from, min(end, len(sh.index.Blocks)))], time.Since(began))
	}
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

// News asks the others what they have, and reports whether somebody has block i now. It
// reports false when ctx ends.
func (sh *Share) News(ctx context.Context, i int) bool {
	if sh == nil || sh.site.Out() != "" {
		return false
	}
	sh.refresh(ctx)
	return ctx.Err() == nil && len(sh.holders(i)) > 0
}

// Ahead is News, and true as well where somebody may have block i soon, of a segment that has
// the blocks [first, end): who fetches it, or could have the turn.
func (sh *Share) Ahead(ctx context.Context, first, end, i int) bool {
	if sh == nil || sh.site.Out() != "" {
		return false
	}
	sh.refresh(ctx)
	now := time.Now()
	return ctx.Err() == nil && len(sh.seen(func(n *neighbour, v state) bool { return v.Have > i || v.Fetching > i || takes(n, v, first, end, now) })) > 0
}

// Has reports whether a peer says that it has block i, and is to be asked now: not while this
// device finds out whether it would be faster by itself.
func (sh *Share) Has(i int) bool {
	if sh == nil || sh.site.Out() != "" || sh.curious() {
		return false
	}
	return len(sh.holders(i)) > 0
}

func (sh *Share) holders(i int) []*neighbour {
	now := time.Now()
	return sh.quick(sh.seen(func(n *neighbour, v state) bool { return v.Have > i && !now.Before(n.busy) }))
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

// heard takes what came of asking a neighbour about the artifact.
func (sh *Share) heard(n *neighbour, v state, err error) {
	if before := sh.view(n); errors.Is(err, errUnknown) && (before.Have > 0 || before.Making || before.Fetching > 0) {
		err = errClaim // what is announced anybody may have said, but not this
	}
	if err != nil {
		sh.site.fault(n, err)
	}
	if errors.As(err, new(busyError)) {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err == nil && (v.Have > 0 || v.Making || v.Fetching > 0) {
		v.Have, v.Fetching = min(v.Have, len(sh.index.Blocks)), min(v.Fetching, len(sh.index.Blocks))
		sh.views[n] = v
		return
	}
	delete(sh.views, n)
	if err == nil || errors.Is(err, errUnknown) {
		sh.without[n] = time.Now()
	}
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
		began := time.Now()
		waiting, end := sh.hurry(ctx, i)
		k, err := sh.site.block(waiting, n, sh.index.Blocks[i], buffer)
		end()
		received += k
		if err != nil && ctx.Err() != nil {
			return received, ctx.Err()
		}
		device, took := sh.device(n), time.Since(began)
		sh.charge(device, i, took, err)
		if err == nil {
			sh.site.praise(n, took <= sh.worth(i, slowest))
			sh.credit(n, i)
			if sh.drips(device) {
				sh.site.fault(n, errLate)
			}
			return received, nil
		}
		if errors.Is(err, errWithdrawn) {
			if sh.withdrawals[device]++; sh.withdrawals[device] > maxWithdrawals {
				err = errClaim
			}
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

// errClaim: it said that it has the block, or makes the artifact. It would say so again.
var errClaim = errors.New("peer does not have what it says")

const (
	// maxWithdrawals is how often a device may take back, of one artifact, that it has a
	// block: what runs there may have changed it.
	maxWithdrawals = 3
	// maxStrangers is how long is waited, for one artifact, for whoever was announced to
	// prove that there is somebody. They are asked all the same.
	maxStrangers = 2 * connectTime
)

// device is who a neighbour is, by its certificate.
func (sh *Share) device(n *neighbour) string {
	sh.site.mu.Lock()
	defer sh.site.mu.Unlock()
	return n.device
}

// forget corrects what a neighbour said: it does not have block i.
func (sh *Share) forget(n *neighbour, i int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if v, ok := sh.views[n]; ok && v.Have > i {
		v.Have = i
		sh.views[n] = v
	}
}

// refresh asks the neighbours what they have, and waits for those that are known, unless that
// has cost too much: what they answer is known the next time, then.
func (sh *Share) refresh(ctx context.Context) {
	known, strange := sh.site.choose(sh.short(), sh.needless())
	if sh.spent() {
		known, strange = nil, slices.Concat(known, strange)
	}
	asked, took := time.Now(), make([]time.Duration, len(known))
	var answering sync.WaitGroup
	for i, n := range known {
		answering.Go(func() { sh.look(ctx, n); took[i] = time.Since(asked) })
	}
	answered := make(chan struct{})
	var meeting sync.WaitGroup
	for _, n := range strange {
		sh.mu.Lock()
		sh.asked[n] = true
		sh.mu.Unlock()
		meeting.Go(func() {
			sh.look(sh.life, n)
			sh.mu.Lock()
			defer sh.mu.Unlock()
			delete(sh.asked, n)
		})
	}
	sh.asking.Go(func() { meeting.Wait(); close(answered) })
	answering.Wait()
	sh.answered(known, took)
	began := time.Now()
	timer := time.NewTimer(sh.patience)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-answered:
	case <-timer.C:
	}
	sh.patience -= time.Since(began)
}

// needless reports of whom it is not to be asked now: who has not answered yet, and who has
// said that it has nothing, and has announced nothing else since. Who is listed announces
// nothing. Its caller holds Site.mu.
func (sh *Share) needless() func(*neighbour) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now, short := time.Now(), sh.short()
	maps.DeleteFunc(sh.without, func(_ *neighbour, at time.Time) bool { return now.After(at.Add(passTime)) })
	asked, without := maps.Clone(sh.asked), maps.Clone(sh.without)
	return func(n *neighbour) bool {
		at, said := without[n]
		return asked[n] || said && !n.static && !(n.announced.After(at) && slices.Contains(n.artifacts, short))
	}
}

func (sh *Share) look(ctx context.Context, n *neighbour) {
	v, err := sh.site.ask(ctx, n, sh.offer.artifact, 0, 0)
	if ctx.Err() == nil {
		sh.heard(n, v, err)
	}
}

// shortDigest is how many digits of a digest are announced.
const shortDigest = 16

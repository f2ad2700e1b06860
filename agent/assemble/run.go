package assemble

import (
	"context"
	"errors"

	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/wake"
	"groundswell/internal/block"
	"groundswell/topics"
)

// maxStrikes is how often a source may send something wrong by a way before it is not
// asked for that any more, and how many segments a delta may not make before it is left.
const maxStrikes = 3

// strike is what a source is held against for.
type strike struct {
	base string
	kind kind
}

// run makes one file.
type run struct {
	Downloads
	shelf    shelf
	wanted   fetch.Artifact
	patient  func() bool // others may be waited for; no source is asked. Nil: sources are
	file     *file
	began    int // blocks that were there
	running  running
	seed     *seed
	plan     *plan
	opened   bool         // what the origin has is known
	aside    bool         // the delta that looks through compression can be had, and is not open
	share    *peers.Share // nil: there are no peers
	unpacker *block.Unpacker
	transfer *topics.Transfer
	tell     func(int64, topics.Transfer)
	told     topics.Transfer // of transfer, last
	strikes  map[strike]int
	good     map[strike]int   // units since the last strike was forgiven
	noRanges int              // answers without the range that was asked for
	buffer   []byte           // of a unit
	early    map[string]early // by the tag of what is fetched
	// unfinished is the tag of what was interrupted last.
	unfinished string
	kept       int64           // bytes that came of units that were interrupted
	apart      map[string]bool // tags of which several sent what was wrong
	by         map[kind]string // the digest of the head or the table that a way was opened by
	refused    map[string]bool // such digests that were of no use
	refusals   map[kind]int    // how many of a way
	wrong      int             // segments that the plain delta does not make
	doubts     doubts
	missed     map[kind]missing
}

func newRun(d Downloads, a fetch.Artifact, path string, t *topics.Transfer) *run {
	return &run{
		Downloads: d, shelf: shelf{d.Client, path}, wanted: a, transfer: t,
		strikes: map[strike]int{}, good: map[strike]int{}, early: map[string]early{}, apart: map[string]bool{}, by: map[kind]string{},
		refused: map[string]bool{}, refusals: map[kind]int{}, missed: map[kind]missing{}, doubts: newDoubts(),
	}
}

// follows reports whether no source is asked.
func (r *run) follows() bool { return r.patient != nil }

func (r *run) all(ctx context.Context) error {
	if r.file.done() {
		return nil
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	for round := 0; !r.file.done(); {
		before, kept := r.file.at, r.kept
		err := r.step(ctx)
		switch {
		case err == nil, errors.Is(err, errNews):
			round = 0
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, wake.ErrSpent), errors.Is(err, fetch.ErrWrongBytes), errors.Is(err, errWhole), errors.As(err, new(diskError)):
			return err
		}
		if r.file.at > before || r.kept-kept >= leastGrown {
			round = 0
		}
		round++
		r.Log.Warn("download interrupted", "have", r.file.have(), "of", r.wanted.Length, "round", round, "err", err)
		r.wanted.Interrupted(err)
		if _, err := r.rest(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) close() {
	if r.plan == nil {
		return
	}
	if w, ok := r.plan.ways[kindExpanded].(*expanded); ok {
		w.close()
	}
}

// step brings what the plan says is next. It returns nil when that is there, or when
// the plan has to be made anew.
func (r *run) step(ctx context.Context) error {
	left, limited := r.Client.Left()
	limit := left
	if limited {
		limit = max(1, left)
	}
	s := r.plan.next(r.file.at, limit)
	switch {
	case s.kind == kindLocal:
		return r.copy(ctx, s)
	case r.follows() && !r.near(r.wanted.SHA256):
		return wake.ErrSpent
	case s.kind == kindPeer:
		return r.receive(ctx, s.first)
	}
	if mine, err := r.turn(ctx, s.first); err != nil || !mine {
		return err
	}
	if !r.opened {
		return r.openWays(ctx)
	}
	s = r.plan.next(r.file.at, limit) // by what is known of the peers now
	if len(s.units) == 0 {
		return nil
	}
	if _, ok := r.plan.ways[s.kind].(guessed); ok {
		return r.openWay(ctx, s.kind, r.openPacked)
	}
	// What is small may be all that a wake has: it brings one unit in any case.
	if limited && left < s.units[0].cost() && r.file.at > r.began {
		return wake.ErrSpent
	}
	defer r.share.Fetches(s.end)()
	err := r.fetch(ctx, s)
	if r.file.at > s.first {
		if left := r.fruitful(ctx, s.kind); err == nil {
			err = left
		}
	}
	return err
}

func (r *run) copy(ctx context.Context, s step) error {
	for i := s.first; i < s.end; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := r.file.index.Blocks[i]
		buffer := r.room(int64(b.Length))
		if !r.seed.read(b, buffer) {
			return nil // it is missing: the plan is another one
		}
		if err := r.file.add(buffer); err != nil {
			return err
		}
		r.transfer.Local += int64(b.Length)
		r.progressed()
	}
	return nil
}

func (r *run) progressed() {
	r.share.Have(r.file.at)
	r.account()
}

// account tells of what was fetched.
func (r *run) account() {
	if r.told = *r.transfer; r.tell != nil {
		r.tell(r.file.have(), r.told)
	}
}

func (r *run) room(n int64) []byte {
	if int64(cap(r.buffer)) < n {
		r.buffer = make([]byte, n)
	}
	return r.buffer[:n]
}

func (r *run) count(k kind, n int64) {
	switch k {
	case kindDelta, kindExpanded:
		r.transfer.Delta += n
	case kindPacked:
		r.transfer.Packed += n
	case kindFull:
		r.transfer.Full += n
	}
}

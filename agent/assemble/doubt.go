package assemble

import (
	"context"
	"errors"
	"net"

	"groundswell/agent/fetch"
	"groundswell/agent/wake"
)

// doubts are about ways that bring nothing, though nothing wrong was sent: the store has lost
// a part, somebody in between refuses it, each answer is cut short. Whether it is the way or
// the network shows another way: where that brings something, the segment is left to it, and
// where no way does, it was none of them.
type doubts struct {
	barren map[kind]int // fetches by a way that brought nothing, since something was brought
	left   []spoiling   // what was left to other ways, of which none has brought anything yet
	lost   map[kind]int // segments in a row that other ways have brought
}

func newDoubts() doubts { return doubts{barren: map[kind]int{}, lost: map[kind]int{}} }

// fruitless notes that nothing came by a way from any source.
func (r *run) fruitless(k kind) {
	d := &r.doubts
	if k == kindFull {
		for _, s := range d.left {
			delete(r.plan.spoilt, s)
		}
		d.left = nil
		clear(d.barren)
		return
	}
	if d.barren[k]++; d.barren[k] == maxStrikes {
		d.barren[k] = 0
		s := spoiling{k, segmentAt(r.plan.segments, r.file.at)}
		r.plan.spoilt[s] = true
		d.left = append(d.left, s)
	}
}

// fruitful notes that something came by a way, and leaves those for which others had to do it
// too often.
func (r *run) fruitful(ctx context.Context, k kind) error {
	d := &r.doubts
	clear(d.barren)
	d.lost[k] = 0
	r.noRanges = 0
	left := d.left
	d.left = nil
	if err := r.reopen(ctx); err != nil {
		return err
	}
	for _, s := range left {
		if s.kind == k {
			continue // elsewhere: peers have brought that segment
		}
		r.Log.Warn("a segment cannot be had by a way", "way", s.kind, "segment", s.segment, "by", k)
		if d.lost[s.kind]++; d.lost[s.kind] < maxStrikes || r.plan.ways[s.kind] == nil {
			continue
		}
		r.Log.Warn("a way to the artifact is closed", "way", s.kind)
		if err := r.leave(ctx, s.kind); err != nil {
			return err
		}
	}
	return nil
}

// missing is a way that could not be opened, for a reason that may pass.
type missing struct {
	times int
	now   bool // it was not tried again since
}

// mayReopen is whether a way is to be tried again, as soon as something has come.
func (r *run) mayReopen(k kind) bool {
	m := r.missed[k]
	return m.now && m.times <= maxStrikes && r.plan.ways[k] == nil
}

// reopen tries again, some times, to open the ways that could not be opened while sources were
// away: they are back.
func (r *run) reopen(ctx context.Context) error {
	again := func(k kind) bool {
		may := r.mayReopen(k)
		r.missed[k] = missing{times: r.missed[k].times}
		return may
	}
	if again(kindPacked) {
		r.plan.ways[kindPacked] = guessed{r.file.index}
	}
	through, plain := again(kindExpanded), again(kindDelta)
	if (through || plain) && r.plan.ways[kindExpanded] == nil && r.plan.ways[kindDelta] == nil {
		return r.openDeltas(ctx)
	}
	return nil
}

// leastGrown is how many bytes have to come of a unit for a fetch to have brought something, if
// they do not make it whole: or a sixteenth of it, if that is less.
const leastGrown = 1 << 10

// away is whether a source was not reached, or has no time.
func away(err error) bool {
	var dial *net.OpError
	return errors.As(err, new(fetch.Busy)) || errors.As(err, &dial) && dial.Op == "dial"
}

// telling is whether a failure is about what was asked for: a source was reached, had time
// and had the object, and sent nothing that is wrong.
func telling(err error) bool {
	if away(err) {
		return false
	}
	for _, other := range []error{errSent, fetch.ErrNotFound, fetch.ErrRange, wake.ErrSpent} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

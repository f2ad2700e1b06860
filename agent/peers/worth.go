package peers

import (
	"context"
	"errors"
	"slices"
	"time"

	"groundswell/internal/block"
)

// turn is what was waited for, for the whole artifact.
type turn struct {
	leader *neighbour
	// waited is by device: what it cost, less what it brought.
	waited map[string]time.Duration
	// all is for all devices together: what they cost, less what they brought by the measure
	// of what this device brings itself.
	all time.Duration
	// untried is what was waited since this device last tried what it brings itself, and tried
	// how often it has done so since.
	untried time.Duration
	tried   int
	// brought is what each device brought of the artifact, and how long it took for that.
	brought map[string]*brought
}

// brought is what came of blocks from one side.
type brought struct {
	bytes int64 // of the artifact
	took  time.Duration
}

// rate is in bytes a second; 0: that is not known.
func (b *brought) rate() int64 {
	if b == nil || b.took <= 0 {
		return 0
	}
	return int64(float64(b.bytes) / b.took.Seconds())
}

const (
	// slowest is the rate in bytes a second at which a peer must bring blocks, on average,
	// to be waited for any longer.
	slowest = minRate / 4
	// slower is how many times as fast as a peer this device may be, and still wait for it:
	// where a site has one slow link, who fetches alone is faster than who shares it.
	slower = 4
	// maxTries is how often it is this device's turn in a row to find that out: the first may
	// go into asking what the origin has.
	maxTries = 2
)

// own is what the device fetched itself of an artifact.
type own struct{ brought }

// note takes what came of a turn. One that has failed says nothing about the link's rate.
func (o *own) note(blocks []block.Block, took time.Duration) {
	if len(blocks) == 0 {
		return
	}
	for _, b := range blocks {
		o.bytes += int64(b.Length)
	}
	o.took += took
}

// most is the longest that is waited, for one device and for all together, beyond what that
// brings.
func (sh *Share) most() time.Duration { return 10 * sh.site.opt.Patience }

// spent reports whether nobody is waited for any more: this device would have had it sooner by
// itself. Who fetches nothing from the origin has nothing to lose.
func (sh *Share) spent() bool { return !sh.follows && sh.turn.all >= sh.most() }

// tries reports whether it is this device's turn whoever fetches: it has waited for long, and
// does not know yet how fast it would be.
func (sh *Share) tries() bool {
	if !sh.curious() {
		return false
	}
	if sh.turn.tried++; sh.turn.tried > maxTries {
		sh.turn.tried, sh.turn.untried = 0, 0
		return false
	}
	return true
}

// curious reports whether it is time to find that out.
func (sh *Share) curious() bool {
	return !sh.follows && sh.own.bytes == 0 && sh.turn.untried >= sh.most()
}

// worth is how long block i may take at a rate in bytes a second.
func (sh *Share) worth(i int, rate int64) time.Duration {
	return time.Duration(int64(sh.index.Blocks[i].Length) * int64(time.Second) / rate)
}

// charge notes how long a device took for block i, and what came of it: until then it was
// waited for as anybody is who is to fetch it, so that blocks that drip cost no more than such
// as do not come. Who follows has nothing to lose.
func (sh *Share) charge(device string, i int, took time.Duration, err error) {
	if !errors.As(err, new(busyError)) { // that says nothing about its rate
		b := sh.turn.brought[device]
		if b == nil {
			b = &brought{}
			sh.turn.brought[device] = b
		}
		b.took += took
		if err == nil {
			b.bytes += int64(sh.index.Blocks[i].Length)
		}
	}
	if sh.follows {
		return
	}
	sh.turn.waited[device] += took
	sh.turn.all += took
	sh.turn.untried += took
}

// answered is charge for what neighbours have, who were asked together.
func (sh *Share) answered(list []*neighbour, took []time.Duration) {
	if sh.follows || len(list) == 0 {
		return
	}
	sh.turn.all += slices.Max(took)
	for i, n := range list {
		if took[i] < slowAnswer {
			continue // or who is asked very often would have waited for long
		}
		device := sh.device(n)
		if sh.turn.waited[device] += took[i]; sh.turn.waited[device] < sh.most() && !sh.spent() {
			continue
		}
		if !sh.site.passes(n) { // for what it answered, or that it did not
			sh.site.fault(n, errLate)
		}
	}
}

// slowAnswer is how long an answer takes that is held against a device.
const slowAnswer = time.Second

// drips reports whether a device that has just brought a block, or not, is to be passed over:
// it has cost too much, or all together have, and it brings next to nothing.
func (sh *Share) drips(device string) bool {
	if sh.follows {
		return false
	}
	b := sh.turn.brought[device]
	return sh.turn.waited[device] >= sh.most() || sh.spent() && measured(b) && b.rate() < slowest
}

// measured reports whether so much is known of a device that its rate counts: whoever stood in
// the queue for an upload once is not slow.
func measured(b *brought) bool { return b != nil && b.took > queueTime }

// quick are those of a list that are not many times slower than the best of them, and do not
// drip where there is one of whom nothing is known; nor, once waiting has cost too much, are they
// many times slower than this device itself.
func (sh *Share) quick(list []*neighbour) []*neighbour {
	var best int64
	if sh.spent() {
		best = sh.own.rate()
	}
	devices := map[*neighbour]*brought{}
	for _, n := range list {
		devices[n] = sh.turn.brought[sh.device(n)]
		if best = max(best, devices[n].rate()); !measured(devices[n]) {
			best = max(best, slower*slowest) // it may well be one who does not drip
		}
	}
	return slices.DeleteFunc(list, func(n *neighbour) bool { return measured(devices[n]) && devices[n].rate() < best/slower })
}

// hurry bounds what a block may take once waiting has cost too much: each of many devices might
// be slow in its turn.
func (sh *Share) hurry(ctx context.Context, i int) (context.Context, context.CancelFunc) {
	if rate := sh.own.rate() / slower; sh.spent() && rate > 0 {
		return context.WithTimeout(ctx, queueTime+time.Second+sh.worth(i, rate))
	}
	return context.WithCancel(ctx)
}

// credit has waiting been worth while for those who have block i: it has come.
func (sh *Share) credit(giver *neighbour, i int) {
	sh.turn.all = max(0, sh.turn.all-sh.worth(i, max(slowest, sh.own.rate()/slower)))
	devices := map[string]bool{sh.device(giver): true}
	for _, n := range sh.seen(func(_ *neighbour, v state) bool { return v.Have > i }) {
		devices[sh.device(n)] = true
	}
	for device := range devices {
		sh.turn.waited[device] = max(0, sh.turn.waited[device]-sh.worth(i, slowest))
	}
}

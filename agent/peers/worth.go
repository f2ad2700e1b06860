package peers

import (
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
type own struct {
	bytes int64 // of the artifact
	took  time.Duration
}

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

// rate is in bytes a second; 0: that is not known.
func (o *own) rate() int64 {
	if o.took <= 0 {
		return 0
	}
	return int64(float64(o.bytes) / o.took.Seconds())
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
	if sh.follows || sh.own.bytes > 0 || sh.turn.untried < sh.most() {
		return false
	}
	if sh.turn.tried++; sh.turn.tried > maxTries {
		sh.turn.tried, sh.turn.untried = 0, 0
		return false
	}
	return true
}

// credit has waiting been worth while for those who have block i: it has come.
func (sh *Share) credit(giver *neighbour, i int) {
	worth := func(rate int64) time.Duration {
		return time.Duration(int64(sh.index.Blocks[i].Length) * int64(time.Second) / rate)
	}
	sh.turn.all = max(0, sh.turn.all-worth(max(slowest, sh.own.rate()/slower)))
	devices := map[string]bool{sh.device(giver): true}
	for _, n := range sh.seen(func(_ *neighbour, v state) bool { return v.Have > i }) {
		devices[sh.device(n)] = true
	}
	for device := range devices {
		sh.turn.waited[device] = max(0, sh.turn.waited[device]-worth(slowest))
	}
}

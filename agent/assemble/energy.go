package assemble

import (
	"context"
	"errors"

	"groundswell/internal/delta"
)

// Energy is what it takes of a battery to have a block. A device on mains power does not
// ask: there the fewest bytes win. On battery that way wins of which
//
//	radio_uj x bytes + 1000 x processor_mw x slow bytes / decode_rate
//
// is the least, in µJ. Slow bytes are what takes processor time: the content (or the parsed
// form) of the compressed streams that have to be made again, and the bytes of a delta that
// is coded by context mixing (delta.Mixed). All else is read in a twentieth of that time or
// less, and counts as nothing.
type Energy struct {
	// Radio is the µJ that a byte takes which is received. Default 5, as of LTE at 2 Mbit/s:
	// Huang et al., "A Close Examination of Performance and Power Characteristics of 4G LTE
	// Networks" (MobiSys 2012), have 1.3 W and 52 mW for each Mbit/s, which makes 11 µJ at
	// 1 Mbit/s and 1.2 at 13. Aalborg University (mobiledevices.kom.aau.dk, "Energy
	// measurements on mobile phones") has 4 µJ for Wi-Fi at 3 Mbit/s, 38 for HSDPA at
	// 1 Mbit/s and 100 for GPRS at 40 kbit/s; narrow-band radios are as slow as that. Whoever
	// knows the radio writes what it takes.
	// From 1 to 1,000,000.
	Radio int64 `yaml:"radio_uj"`
	// Processor is the mW that the device takes while one of its processors is busy, more
	// than when it sleeps. Default 1000: a Raspberry Pi Zero 2 W (Cortex-A53) takes 600 mW
	// idle (CNX Software, 2021-12-09) and 1.4 W more with four busy ones (A. Jacobs, "Raspberry
	// Pi Zero 2 W temperature and power consumption"). From 0 to 1,000,000; 0: processor time
	// costs nothing, so the fewest bytes win on battery as well.
	Processor int64 `yaml:"processor_mw"`
	// Rate is how many slow bytes a processor gets through in a second. Default 1,500,000,
	// which is a quarter of what docs/delta.md measured on a server's. From 1,000 to 10^12.
	Rate int64 `yaml:"decode_rate"`
}

// DefaultEnergy is what applies where the configuration is silent.
func DefaultEnergy() Energy { return Energy{Radio: 5, Processor: 1000, Rate: 1_500_000} }

// Validate names the key that is wrong.
func (e Energy) Validate() error {
	switch {
	case e.Radio < 1 || e.Radio > 1e6:
		return errors.New("radio_uj: must be from 1 to 1000000")
	case e.Processor < 0 || e.Processor > 1e6:
		return errors.New("processor_mw: must be from 0 to 1000000")
	case e.Rate < 1e3 || e.Rate > 1e12:
		return errors.New("decode_rate: must be from 1000 to 1000000000000")
	}
	return nil
}

// of is the µJ that a unit takes, or a whole delta: nothing overflows up to 2^42 bytes.
func (e Energy) of(u unit) int64 {
	return e.Radio*u.cost() + int64(1000*float64(e.Processor)*float64(u.slow)/float64(e.Rate))
}

// slowly is how many slow bytes there are in so many of a delta.
func slowly(c delta.Coder, n int64) int64 {
	if c == delta.Mixed {
		return n
	}
	return 0
}

// openDeltas opens one of the two deltas, if one can be had: their heads may be long. On
// battery it is the plain one where that takes less energy, by the whole of both, so that it
// is the same one after an interruption.
func (r *run) openDeltas(ctx context.Context) error {
	if err := r.openWay(ctx, kindExpanded, r.openExpanded); err != nil {
		return err
	}
	w, open := r.plan.ways[kindExpanded].(*expanded)
	if open && !r.dear(w) {
		return nil
	}
	if open {
		w.close() // its head stays on the shelf
		delete(r.plan.ways, kindExpanded)
		r.aside = true
	}
	if err := r.openWay(ctx, kindDelta, r.openDelta); err != nil || r.plan.ways[kindDelta] != nil {
		return err
	}
	return r.instead(ctx)
}

// instead opens the delta that looks through compression, if it was left aside for the plain
// one, which is no way any more.
func (r *run) instead(ctx context.Context) error {
	if !r.aside {
		return nil
	}
	r.aside = false
	return r.openWay(ctx, kindExpanded, r.openExpanded)
}

// dear is whether the plain delta takes less energy, if there is one.
func (r *run) dear(w *expanded) bool {
	if r.plan.energy == nil || w.plain == nil {
		return false
	}
	plain := unit{to: w.plain.Length, slow: slowly(w.head.Inner.Coder, w.plain.Length)}
	through, otherwise := r.plan.energy.of(w.whole()), r.plan.energy.of(plain)
	if through > otherwise {
		r.Log.Info("the plain delta takes less of the battery than the one that looks through compression", "uj", otherwise, "through", through)
	}
	return through > otherwise
}

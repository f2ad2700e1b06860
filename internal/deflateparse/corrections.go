package deflateparse

// What corrections have in place of a distance less 1. They are records of what the
// predictor did not foresee; run counts what it did.
const (
	ranked  = 1 << 15   // and a rank instead
	maxRank = 1<<14 - 1 //
	literal = 3<<14 + 0 // no match; its length is 0
	long    = 3<<14 + 1 // the match of the next record is a long one
	skip    = 3<<14 + 2 // more was foreseen: 256 times the length
)

// corrector writes what was not foreseen.
type corrector struct {
	p    *predictor
	out  []byte
	at   int // in the content
	run  int // what was foreseen since the last record
	full bool
}

// corrections appends to dst what of a parse of the content from a place on is not foreseen.
// Where the room in dst does not do, it stops and is not ok: it would be no shorter than what
// it is instead of.
func (p *predictor) corrections(dst, records []byte, at int) (out []byte, ok bool) {
	c := corrector{p: p, out: dst, at: at}
	for ; len(records) > 0 && !c.full; records = records[recordLength:] {
		r, _ := readRecord(records) // it is one
		c.literals(r.run)
		if r.length > 0 {
			c.match(r)
		}
	}
	c.literals(len(p.content) - c.at)
	return c.out, !c.full
}

func (c *corrector) literals(n int) {
	for ; n > 0 && !c.full; n-- {
		if length, _ := c.p.next(c.at); length != 0 {
			c.note(0, literal)
		} else {
			c.run++
		}
		c.at++
	}
}

func (c *corrector) match(r record) {
	length, distance := c.p.next(c.at)
	if length == r.length && distance == r.distance && !r.long {
		c.run++
	} else {
		if r.long {
			c.note(0, long)
		}
		v := r.distance - 1
		if n, d, ok := c.p.rank(c.at, r.length, maxRank, r.distance); ok && d == r.distance {
			v = ranked | n
		}
		c.note(r.length-minMatch, v)
	}
	c.at += r.length
}

func (c *corrector) note(length, distance int) {
	if c.run > maxRun {
		c.put(c.run&maxRun, c.run>>8, skip)
		c.run = 0
	}
	c.put(c.run, length, distance)
	c.run = 0
}

func (c *corrector) put(run, length, distance int) {
	if c.full = c.full || len(c.out)+recordLength > cap(c.out); !c.full {
		c.out = append(c.out, byte(run), byte(length), byte(distance), byte(distance>>8))
	}
}

// corrected appends what is foreseen of the content from a place on, and what the
// corrections say.
func (w *Writer) corrected(corrections []byte, at int) error {
	p := &w.predictor
	isLong := false
	for ; len(corrections) > 0; corrections = corrections[recordLength:] {
		run, length, v := int(corrections[0]), int(corrections[1]), int(corrections[2])|int(corrections[3])<<8
		if v == skip {
			run |= length << 8
		}
		ok := true
		for ; run > 0 && ok; run-- {
			at, ok = w.foreseen(at)
		}
		if !ok || v > skip || (v == literal || v == long) && length != 0 {
			return ErrCorrupt
		}
		switch v {
		case skip:
			continue
		case long:
			isLong = true
			continue
		case literal:
			ok = at < len(p.content) && w.symbol(&w.literals, int(p.content[at]))
			w.out.flush()
			at++
		default:
			r := record{length: length + minMatch, distance: v + 1, long: isLong}
			if ok = at+r.length <= len(p.content) && (!r.long || r.length == maxMatch); ok && v >= ranked {
				_, r.distance, ok = p.rank(at, r.length, v-ranked, 0)
			}
			if ok && r.distance > p.base+at {
				return ErrTooFar
			}
			ok = ok && w.match(r)
			at += r.length
		}
		if isLong = false; !ok {
			return ErrCorrupt
		}
	}
	for ok := true; at < len(p.content); {
		if at, ok = w.foreseen(at); !ok {
			return ErrCorrupt
		}
	}
	return nil
}

// foreseen appends what is expected at a place, and returns the next one.
func (w *Writer) foreseen(at int) (next int, ok bool) {
	p := &w.predictor
	if at >= len(p.content) {
		return at, false
	}
	length, distance := p.next(at)
	if length > 0 {
		return at + length, w.match(record{length: length, distance: distance})
	}
	ok = w.symbol(&w.literals, int(p.content[at]))
	w.out.flush()
	return at + 1, ok
}

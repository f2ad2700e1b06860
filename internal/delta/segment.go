package delta

// method is how a segment is coded: its first byte.
type method uint8

const (
	methodStored  method = iota // the bytes themselves
	methodZstd                  // one zstd frame of them, without the old image
	methodDelta                 // passes, length of a zstd frame of differences, that frame, one of literals; either may be stored
	methodMixed                 // passes, differences and literals by the models
	methodLiteral               // passes, the literals themselves, differences by the models
	methodMarked                // as methodMixed, with a mark for each piece of literals that is stored instead
)

// models is whether decoding takes the time of the models.
func (m method) models() bool { return m >= methodMixed }

// part is a range of a segment: of a copy from the old image, or literal. There may be as
// many as a segment has bytes.
type part struct {
	start, end int32 // in the segment
	from       int32 // in the old image; literal: negative
}

func (p part) copied() bool { return p.from >= 0 }

// parts are the ranges of a segment.
type parts struct {
	list        []part // in order and without a hole
	first, last copied // the copies that the segment may cut
}

// set makes p those of a segment.
func (p *parts) set(h *Head, s Segment) {
	list, done := p.list[:0], int32(0)
	for c := range h.copies.since(s.Start) {
		start := max(int64(c.at)-s.Start, 0)
		if start >= s.Size {
			break
		}
		if start == 0 {
			p.first = c
		}
		p.last = c
		next := part{
			start: int32(start), end: int32(min(int64(c.end())-s.Start, s.Size)),
			from: int32(int64(c.from) + s.Start + start - int64(c.at)),
		}
		if next.start > done {
			list = append(list, part{start: done, end: next.start, from: -1})
		}
		list = append(list, next)
		done = next.end
	}
	if int64(done) < s.Size {
		list = append(list, part{start: done, end: int32(s.Size), from: -1})
	}
	p.list = list
}

// whole is the copy that a part is of.
func (p *parts) whole(of part, s Segment) copied {
	switch {
	case of.start == 0:
		return p.first
	case int64(of.end) == s.Size:
		return p.last
	}
	return copied{int32(s.Start) + of.start, of.from, of.end - of.start}
}

// largest is the most that a segment makes.
func (h *Head) largest() int64 {
	n := int64(0)
	for _, s := range h.Segments {
		n = max(n, s.Size)
	}
	return n
}

// models are what both sides of the mixed coder learn, from nothing in each segment.
type models struct {
	diff     *diffModel
	literal  *literalModel
	diffUsed bool
	litUsed  bool
}

func (m *models) reset() {
	if m.diff == nil {
		m.diff, m.literal = newDiffModel(), newLiteralModel()
	}
	if m.diffUsed {
		m.diff.reset()
	}
	if m.litUsed {
		m.literal.reset()
	}
	m.diffUsed, m.litUsed = false, false
}

// code codes a segment, of which out has the prediction and raw the old bytes.
// how says how literals are coded: methodMixed, methodMarked, or not here with
// methodLiteral, when out has them already. plain chooses what is stored of them with
// methodMarked, when encoding.
func (m *models) code(c *coder, parts []part, out, raw, want []byte, start int64, how method, plain func([]byte) bool) {
	m.reset()
	for _, p := range parts {
		switch {
		case p.copied():
			m.diffUsed = true
			var w []byte
			if want != nil {
				w = want[p.start:p.end]
			}
			m.diff.copied(c, out[p.start:p.end], raw[p.start:p.end], w, start+int64(p.start))
		case how == methodMixed:
			m.litUsed = true
			m.literal.literals(c, out, want, int(p.start), int(p.end))
		case how == methodMarked:
			m.litUsed = true
			m.literal.marked(c, out, want, int(p.start), int(p.end), plain)
		}
	}
}

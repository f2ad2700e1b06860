package delta

import (
	"sort"
)

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

// part is a range of a segment: copied from the old image, or literal.
type part struct {
	start, end int // in the segment
	from       int64
	copied     bool
	whole      copied
}

// parts appends to list the ranges of the segment, in order and without a hole.
func (h *Head) parts(list []part, s Segment) []part {
	k := sort.Search(len(h.copies), func(i int) bool { return int64(h.copies[i].end()) > s.Start })
	done := int64(0)
	for ; k < len(h.copies) && int64(h.copies[k].at) < s.Start+s.Size; k++ {
		c := h.copies[k]
		start := max(int64(c.at)-s.Start, 0)
		end := min(int64(c.end())-s.Start, s.Size)
		if start > done {
			list = append(list, part{start: int(done), end: int(start)})
		}
		list = append(list, part{
			start: int(start), end: int(end), copied: true, whole: c,
			from: int64(c.from) + s.Start + start - int64(c.at),
		})
		done = end
	}
	if done < s.Size {
		list = append(list, part{start: int(done), end: int(s.Size)})
	}
	return list
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
		case p.copied:
			m.diffUsed = true
			var w []byte
			if want != nil {
				w = want[p.start:p.end]
			}
			m.diff.copied(c, out[p.start:p.end], raw[p.start:p.end], w, start+int64(p.start))
		case how == methodMixed:
			m.litUsed = true
			m.literal.literals(c, out, want, p.start, p.end)
		case how == methodMarked:
			m.litUsed = true
			m.literal.marked(c, out, want, p.start, p.end, plain)
		}
	}
}

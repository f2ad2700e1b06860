package lzmaparse

import "math/bits"

const (
	states         = 12
	literalStates  = 7 // the last packet was a literal in the states below
	maxPositions   = 16
	lengthStates   = 4
	slotBits       = 6
	firstModelSlot = 4
	endModelSlot   = 14
	alignBits      = 4
	maxLiteralBits = 4 // of lc + lp, as LZMA2 and xz have it
	endDistance    = 1<<32 - 1
)

// model has the probabilities, and the state they depend on (LZMA SDK, "LZMA
// specification").
type model struct {
	lc, lp, pb int // bits of the last byte and of the position that are context

	literals                     []uint16
	isMatch, isShort             [states][maxPositions]uint16
	isRepeat, isLast, isR1, isR2 [states]uint16 // isLast: 0 if it is the last distance
	slots                        [lengthStates][1 << slotBits]uint16
	special                      [1 + 1<<(endModelSlot/2) - endModelSlot]uint16
	align                        [1 << alignBits]uint16
	matchLengths, repeatLengths  lengths

	state     int
	distances [4]uint32
}

type lengths struct {
	above8, above16 uint16
	low, middle     [maxPositions][8]uint16
	high            [256]uint16
}

// properties sets lc, lp and pb from the byte that stands for them.
func (m *model) properties(b byte) error {
	if b >= 9*5*5 {
		return ErrCorrupt
	}
	lc, lp, pb := int(b)%9, int(b)/9%5, int(b)/45
	if lc+lp > maxLiteralBits {
		return ErrCorrupt
	}
	m.lc, m.lp, m.pb = lc, lp, pb
	return nil
}

func even(p []uint16) {
	for i := range p {
		p[i] = probabilityHalf
	}
}

func (l *lengths) reset() {
	l.above8, l.above16 = probabilityHalf, probabilityHalf
	for i := range l.low {
		even(l.low[i][:])
		even(l.middle[i][:])
	}
	even(l.high[:])
}

// reset forgets what was learned.
func (m *model) reset() {
	n := 0x300 << (m.lc + m.lp)
	if cap(m.literals) < n {
		m.literals = make([]uint16, n)
	}
	m.literals = m.literals[:n]
	even(m.literals)
	for i := range states {
		even(m.isMatch[i][:])
		even(m.isShort[i][:])
	}
	for _, p := range [][]uint16{m.isRepeat[:], m.isLast[:], m.isR1[:], m.isR2[:], m.special[:], m.align[:]} {
		even(p)
	}
	for i := range m.slots {
		even(m.slots[i][:])
	}
	m.matchLengths.reset()
	m.repeatLengths.reset()
	m.state = 0
	m.distances = [4]uint32{}
}

// isLiteral codes whether a literal comes, at a position of the content.
func (m *model) isLiteral(c *coder, position uint32, literal bool) bool {
	b := uint32(1)
	if literal {
		b = 0
	}
	return c.bit(&m.isMatch[m.state][position&(1<<m.pb-1)], b) == 0
}

// literal codes one. last is the byte before it, matched that at the last distance, which
// matters unless plain.
func (m *model) literal(c *coder, position uint32, last, matched, v byte) byte {
	context := (position&(1<<m.lp-1))<<m.lc + uint32(last)>>(8-m.lc)
	p := m.literals[0x300*context:][:0x300]
	symbol, value := uint32(1), uint32(v)
	if m.plain() {
		for i := 7; i >= 0; i-- {
			symbol = symbol<<1 | c.bit(&p[symbol], value>>i&1)
		}
	} else {
		same, match := uint32(0x100), uint32(matched)
		for i := 7; i >= 0; i-- {
			match <<= 1
			hint := match & same
			b := c.bit(&p[same+hint+symbol], value>>i&1)
			symbol = symbol<<1 | b
			if b == 0 {
				same &^= hint
			} else {
				same &= hint
			}
		}
	}
	switch {
	case m.state < 4:
		m.state = 0
	case m.state < 10:
		m.state -= 3
	default:
		m.state -= 6
	}
	return byte(symbol)
}

// plain says that a literal does not depend on a matched byte.
func (m *model) plain() bool { return m.state < literalStates }

// match codes what is no literal. The distance that it has is then m.distances[0].
func (m *model) match(c *coder, position uint32, r record) record {
	position &= 1<<m.pb - 1
	s := m.state
	if c.bit(&m.isRepeat[s], flag(r.choice != match)) == 0 {
		r.choice = match
		r.length = m.matchLengths.code(c, position, r.length)
		r.distance = m.distance(c, r.length, r.distance)
		m.distances = [4]uint32{r.distance, m.distances[0], m.distances[1], m.distances[2]}
		m.state = after(s, 7, 10)
		return r
	}
	if c.bit(&m.isLast[s], flag(r.choice != repeat0)) == 0 {
		r.choice = repeat0
		if c.bit(&m.isShort[s][position], flag(r.length != 1)) == 0 {
			r.length = 1
			m.state = after(s, 9, 11)
			return r
		}
	} else {
		k := repeat1
		if c.bit(&m.isR1[s], flag(r.choice != repeat1)) != 0 {
			k = repeat2
			if c.bit(&m.isR2[s], flag(r.choice != repeat2)) != 0 {
				k = repeat3
			}
		}
		r.choice = k
		d := m.distances[k-repeat0]
		copy(m.distances[1:], m.distances[:k-repeat0])
		m.distances[0] = d
	}
	r.length = m.repeatLengths.code(c, position, r.length)
	m.state = after(s, 8, 11)
	return r
}

func after(state, literal, match int) int {
	if state < literalStates {
		return literal
	}
	return match
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func (l *lengths) code(c *coder, position uint32, length int) int {
	n := uint32(length - minLength)
	if c.bit(&l.above8, flag(n >= 8)) == 0 {
		return minLength + int(c.tree(l.low[position][:], n, 3))
	}
	if c.bit(&l.above16, flag(n >= 16)) == 0 {
		return minLength + 8 + int(c.tree(l.middle[position][:], n-8, 3))
	}
	return minLength + 16 + int(c.tree(l.high[:], n-16, 8))
}

func (m *model) distance(c *coder, length int, distance uint32) uint32 {
	slot := c.tree(m.slots[min(length-minLength, lengthStates-1)][:], slotOf(distance), slotBits)
	if slot < firstModelSlot {
		return slot
	}
	bits := int(slot>>1) - 1
	base := (2 | slot&1) << bits
	rest := distance - base
	if slot < endModelSlot {
		return base + c.reverse(m.special[base-slot:], rest, bits)
	}
	got := base + c.direct(rest>>alignBits, bits-alignBits)<<alignBits
	return got + c.reverse(m.align[:], rest&(1<<alignBits-1), alignBits)
}

// slotOf is the number of the range that a distance is in: its length in bits and its
// second highest bit.
func slotOf(distance uint32) uint32 {
	if distance < firstModelSlot {
		return distance
	}
	n := uint32(bits.Len32(distance)) - 1
	return 2*n | distance>>(n-1)&1
}

// code is the byte that stands for lc, lp and pb.
func (m *model) code() byte { return byte((m.pb*5+m.lp)*9 + m.lc) }

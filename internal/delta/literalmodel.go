package delta

import "encoding/binary"

// literalModel codes bytes that resemble nothing in the old image: by the bytes
// before them, and by what followed the last time that those were seen in this
// segment.
type literalModel struct {
	bytes *mixer
	runs  *mixer
	// match: where in the segment the last six bytes stood before.
	seen  []uint32 // by hash: position + 1
	match int      // what is predicted next, or -1
	long  uint32   // for how many bytes it has been right
	past  uint32
	marks uint32 // counter of pieces that are stored
}

const (
	literalInputs = 8
	literalRun    = 64
	literalPiece  = 4096 // what is stored or not, with methodMarked; pieces begin at multiples of it
	marksLimit    = 30
	seenBits      = 16
)

func newLiteralModel() *literalModel {
	return &literalModel{
		bytes: newMixer(literalInputs, 3*256, 16, 255, 8),
		runs:  newMixer(2, 1, 10, 255, 6),
		seen:  make([]uint32, 1<<seenBits),
		match: -1,
		marks: counterStart,
	}
}

func (m *literalModel) reset() {
	m.bytes.reset()
	m.runs.reset()
	clear(m.seen)
	m.match, m.long, m.past, m.marks = -1, 0, 0, counterStart
}

// literals codes out[start:end], to become want[start:end]. All before start is known.
func (m *literalModel) literals(c *coder, out, want []byte, start, end int) {
	m.match, m.long = -1, 0
	for i := start; i < end; {
		if (i == start || i%literalRun == 0) && end-i >= literalRun {
			if n := m.run(c, out, want, i); n > 0 {
				i += n
				continue
			}
		}
		var v byte
		if !c.decoding {
			v = want[i]
		}
		out[i] = m.next(c, out, i, v)
		i++
	}
}

// marked is literals, but pieces that plain chooses are stored, and teach nothing: a model
// of noise makes it longer.
func (m *literalModel) marked(c *coder, out, want []byte, start, end int, plain func([]byte) bool) {
	for i := start; i < end; {
		stop := min(end, i-i%literalPiece+literalPiece)
		stored := 0
		if !c.decoding && plain(want[i:stop]) {
			stored = 1
		}
		stored = c.bit(min(max(m.marks>>16, 1), 65535), stored)
		counterUpdate(&m.marks, stored, marksLimit, logistic())
		if stored == 0 {
			m.literals(c, out, want, i, stop)
			i = stop
			continue
		}
		for ; i < stop; i++ {
			var v byte
			if !c.decoding {
				v = want[i]
			}
			out[i] = c.stored(v)
		}
	}
}

// run codes whether the next bytes all equal the one before.
func (m *literalModel) run(c *coder, out, want []byte, i int) int {
	var last byte
	if i > 0 {
		last = out[i-1]
	}
	b := 0
	if !c.decoding {
		b = 1
		for _, v := range want[i : i+literalRun] {
			if v != last {
				b = 0
				break
			}
		}
	}
	m.runs.hash[0] = hash2(m.past&0xff, 1)
	m.runs.hash[1] = hash3(m.past&1, uint32(last), 2)
	b = m.runs.flag(c, 0, b)
	m.past = m.past<<1 | uint32(b)
	if b == 0 {
		return 0
	}
	for k := range literalRun {
		out[i+k] = last
	}
	return literalRun
}

// next codes the byte at i.
func (m *literalModel) next(c *coder, out []byte, i int, v byte) byte {
	var past uint64 // the last eight bytes, the latest lowest
	if i >= 8 {
		past = binary.BigEndian.Uint64(out[i-8:])
	} else {
		for _, b := range out[:i] {
			past = past<<8 | uint64(b)
		}
	}
	p := uint32(past)
	h := &m.bytes.hash
	h[0] = 0
	h[1] = hash2(p&0xff, 1)
	h[2] = hash2(p&0xffff, 2)
	h[3] = hash2(p&0xffffff, 3)
	h[4] = hash2(p, 4)
	h[5] = hash3(p, uint32(past>>32)&0xffff, 5)
	h[6] = hash3(p&0xff00ff00, uint32(i)&3, 6)

	key := hash3(p, uint32(past>>32)&0xffff, 7) >> (32 - seenBits)
	if m.match < 0 {
		if at := int(m.seen[key]); at > 0 && i >= 6 {
			m.match = at - 1
		}
	}
	m.seen[key] = uint32(i) + 1
	set := 0
	if m.match >= 0 {
		h[7] = hash3(uint32(out[m.match])+1, min(m.long, 31), 8)
		set = 1 << 8
		if m.long >= 16 {
			set = 2 << 8
		}
	} else {
		h[7] = hash3(0, p&0xff, 8)
	}
	v = m.bytes.symbol(c, set, v)
	if m.match >= 0 {
		if out[m.match] == v {
			m.match++
			m.long++
		} else {
			m.match, m.long = -1, 0
		}
	}
	return v
}

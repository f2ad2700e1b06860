package delta

import "encoding/binary"

// diffModel codes copied ranges: what the new bytes have that the rebased old ones
// lack. It goes by words of four bytes, aligned in the new image. A word that is as
// predicted costs a flag, and a block of sixteen such words one flag together. Of
// others the difference as a number is coded, byte by byte from the lowest, so that
// one shift of an address makes one difference wherever it occurs.
type diffModel struct {
	blocks *mixer
	flags  *mixer
	bytes  *mixer
	guess  *guesses

	blockPast uint32 // what the last blocks' flags were, a bit each
	bigPast   uint32
	past      uint32 // the same of the last words
	since     uint32 // words since the last difference
	last      [3]uint32
	byClass   [256]uint32 // the last difference of a word with this highest byte
	ring      [64]uint32  // the differences of the last words, by their position
}

const (
	diffBlock    = 64
	diffBigBlock = 4096

	flagInputs = 9
	byteInputs = 12
)

func newDiffModel() *diffModel {
	return &diffModel{
		blocks: newMixer(3, 4, 12, 1000, 6),
		flags:  newMixer(flagInputs, 256, 14, 400, 6),
		bytes:  newMixer(byteInputs, 4*256, 15, 255, 10),
		guess:  newGuesses(),
	}
}

func (m *diffModel) reset() {
	m.blocks.reset()
	m.flags.reset()
	m.bytes.reset()
	m.guess.reset()
	m.blockPast, m.bigPast, m.past, m.since = 0, 0, 0, 0
	clear(m.last[:])
	clear(m.byClass[:])
	clear(m.ring[:])
}

// copied codes the bytes of out, which hold the prediction, to become want (when
// encoding). raw is what stands in the old image. at is the offset in the new image.
func (m *diffModel) copied(c *coder, out, raw, want []byte, at int64) {
	for i := 0; i < len(out); {
		here := at + int64(i)
		if here%diffBlock == 0 || i == 0 {
			if n := m.skip(c, out[i:], want, i, here); n > 0 {
				i += n
				continue
			}
		}
		// Up to the next multiple of a block, by words.
		end := min(len(out), i+diffBlock-int(here%diffBlock))
		for i < end {
			n := min(4-int((at+int64(i))&3), end-i)
			m.word(c, out, raw, want, i, n, at)
			i += n
		}
	}
}

// skip codes whether what follows is as predicted, and returns how many bytes are.
func (m *diffModel) skip(c *coder, out, want []byte, i int, here int64) int {
	equal := func(n int) int {
		if !c.decoding && string(out[:n]) == string(want[i:i+n]) {
			return 1
		}
		return 0
	}
	if n := diffBigBlock; len(out) >= n && here%diffBlock == 0 {
		if m.blockPast&15 == 15 || m.bigPast&1 == 1 || i == 0 {
			b := m.blockFlag(c, 0, m.bigPast, m.blockPast, equal(n))
			m.bigPast = m.bigPast<<1 | uint32(b)
			if b == 1 {
				m.blockPast = ^uint32(0)
				m.quiet(n / 4)
				return n
			}
		}
	}
	n := min(len(out), diffBlock-int(here%diffBlock))
	set := 1
	if n < diffBlock {
		set = 2
	}
	b := m.blockFlag(c, set, m.blockPast, m.bigPast, equal(n))
	m.blockPast = m.blockPast<<1 | uint32(b)
	if b == 0 {
		return 0
	}
	m.quiet(n / 4)
	return n
}

func (m *diffModel) blockFlag(c *coder, set int, past, other uint32, b int) int {
	s := uint32(set)
	m.blocks.hash[0] = hash2(s, past&0xff)
	m.blocks.hash[1] = hash3(s, past&3, min(m.since, 64)>>2)
	m.blocks.hash[2] = hash3(s, past&0xffff, other&3)
	return m.blocks.flag(c, set, b)
}

// quiet passes over words that are as predicted.
func (m *diffModel) quiet(words int) {
	m.since += uint32(words)
	m.past = 0
	for i := range min(words, len(m.ring)) {
		m.ring[i] = 0 // see word: the ring goes by position, approximately
	}
}

// word codes n bytes, at most four.
func (m *diffModel) word(c *coder, out, raw, want []byte, i, n int, at int64) {
	predicted, before := loadWord(out[i:], n), uint32(0)
	old := loadWord(raw[i:], n)
	if i >= 4 {
		before = binary.LittleEndian.Uint32(out[i-4:])
	}
	slot := int((at + int64(i)) >> 2)
	class := predicted >> 24
	m.flagContexts(predicted, old, before, uint32(n), slot)
	var diff uint32
	differs := 0
	if !c.decoding {
		diff = loadWord(want[i:], n) - predicted
		if n < 4 {
			diff &= 1<<(8*n) - 1
		}
		if diff != 0 {
			differs = 1
		}
	}
	differs = m.flags.flag(c, int(m.past&3)<<2|min(int(m.since), 3), differs)
	m.past = m.past<<1 | uint32(differs)
	if differs == 0 {
		m.since++
		m.ring[slot&63] = 0
		return
	}
	if n == 4 {
		got := m.guess.try(c, m, predicted, old, diff, slot)
		if got != 0 {
			diff = got
		} else {
			diff = m.difference(c, predicted, old, before, diff, n, slot)
		}
		m.guess.learn(predicted, diff)
	} else {
		diff = m.difference(c, predicted, old, before, diff, n, slot)
	}
	storeWord(out[i:], n, predicted+diff)
	m.since = 0
	m.last[2], m.last[1], m.last[0] = m.last[1], m.last[0], diff
	m.byClass[class] = diff
	m.ring[slot&63] = diff
}

func (m *diffModel) flagContexts(predicted, old, before, n uint32, slot int) {
	class := predicted >> 24
	h := &m.flags.hash
	rebased := uint32(0)
	if predicted != old {
		rebased = 1
	}
	h[0] = hash3(class, m.past&7, rebased|n<<1)
	h[1] = hash2(predicted, 1)
	h[2] = hash2(m.past&0xffff, 2)
	h[3] = hash3(min(m.since, 255), m.last[0]&0xffff, 3)
	h[4] = hash3(class, before>>24|m.past&1<<8, 4)
	h[5] = hash3(predicted>>12, m.past&1, 5)
	h[6] = hash3(before, 6, n)
	h[7] = hash3(flagOf(m.ring[(slot-2)&63])|flagOf(m.ring[(slot-4)&63])<<1|flagOf(m.ring[(slot-6)&63])<<2|flagOf(m.ring[(slot-8)&63])<<3|flagOf(m.ring[(slot-3)&63])<<4|flagOf(m.ring[(slot-12)&63])<<5, m.past&3, 7)
	h[8] = hash3(predicted>>21, rebased|m.past&3<<1, 8)
}

func flagOf(v uint32) uint32 {
	if v != 0 {
		return 1
	}
	return 0
}

// difference codes the bytes of a difference that is not zero.
func (m *diffModel) difference(c *coder, predicted, old, before, diff uint32, n, slot int) uint32 {
	class := predicted >> 24
	h := &m.bytes.hash
	done := uint32(0)
	for k := range n {
		u := uint32(k)
		tag := u<<4 | uint32(n)<<8
		h[0] = hash2(done, tag)
		h[1] = hash3(m.last[0], done, tag|1)
		h[2] = hash3(m.last[1], done, tag|2)
		h[3] = hash3(m.byClass[class], done, tag|3)
		h[4] = hash3(predicted, done, tag|4)
		h[5] = hash3(predicted>>(8*u)&0xffff, done>>(8*max(u, 1)-8), tag|5)
		h[6] = hash3(predicted>>10, done, tag|6)
		h[7] = hash3(m.ring[(slot-2)&63], done, tag|7)
		h[8] = hash3(m.ring[(slot-4)&63], done, tag|8)
		h[9] = hash3(class|min(m.since, 31)<<8, done, tag|9)
		h[10] = hash3(old-predicted, done, tag|10)
		h[11] = hash3(hash2(m.ring[(slot-3)&63], m.ring[(slot-1)&63]), done, tag|11)
		v := m.bytes.symbol(c, k<<8, byte(diff>>(8*u)))
		done |= uint32(v) << (8 * u)
	}
	return done
}

func loadWord(b []byte, n int) uint32 {
	if n == 4 {
		return binary.LittleEndian.Uint32(b)
	}
	var v uint32
	for k := range n {
		v |= uint32(b[k]) << (8 * k)
	}
	return v
}

func storeWord(b []byte, n int, v uint32) {
	for k := range n {
		b[k] = byte(v >> (8 * k))
	}
}

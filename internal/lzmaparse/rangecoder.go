package lzmaparse

import "encoding/binary"

// coder is LZMA's range coder, in either direction: the model is written once and run by
// both sides.
type coder struct {
	width    uint32
	decoding bool

	// Decoding.
	code uint32
	in   []byte
	at   int                    // past the end of in: more was wanted than there is
	more func() ([]byte, error) // what follows in, if that is not all
	err  error                  // of more

	// Encoding. The byte that comes next may still change by a carry, and so do those
	// after it that are 0xff.
	low     uint64
	next    byte
	pending int
	out     []byte
}

const (
	probabilityBits = 11
	probabilityHalf = 1 << (probabilityBits - 1)
	moveBits        = 5
	narrow          = 1 << 24
)

// head is the length of what a range coded stream begins with.
const coderHead = 5

// decode begins to decode. in has the first bytes.
func (c *coder) decode(in []byte, more func() ([]byte, error)) error {
	if len(in) < coderHead {
		return ErrTruncated
	}
	if in[0] != 0 {
		return ErrCorrupt
	}
	*c = coder{width: 1<<32 - 1, decoding: true, code: binary.BigEndian.Uint32(in[1:]), in: in, at: coderHead, more: more}
	return nil
}

// encode begins to encode, and appends to out.
func (c *coder) encode(out []byte) {
	*c = coder{width: 1<<32 - 1, pending: 1, out: out}
}

func (c *coder) normalize() {
	if c.width >= narrow {
		return
	}
	c.width <<= 8
	if !c.decoding {
		c.shift()
		return
	}
	if c.at >= len(c.in) && !c.refill() {
		c.code <<= 8
		return
	}
	c.code = c.code<<8 | uint32(c.in[c.at])
	c.at++
}

// refill gets more to decode, if there is any.
func (c *coder) refill() bool {
	if c.more != nil && c.err == nil {
		c.in, c.err = c.more()
		c.at = 0
		if len(c.in) > 0 {
			return true
		}
	}
	c.at = len(c.in) + 1
	return false
}

// overrun says that more was wanted than there is.
func (c *coder) overrun() bool { return c.at > len(c.in) }

// done says that all of in was used and nothing else, as it is when what was encoded ends.
func (c *coder) done() bool { return c.at == len(c.in) && c.code == 0 }

// bit codes a bit. It returns it: that given when encoding, that found when decoding.
func (c *coder) bit(p *uint16, b uint32) uint32 {
	bound := c.width >> probabilityBits * uint32(*p)
	if c.decoding {
		b = 0
		if c.code >= bound {
			c.code -= bound
			b = 1
		}
	} else if b != 0 {
		c.low += uint64(bound)
	}
	if b == 0 {
		c.width = bound
		*p += (1<<probabilityBits - *p) >> moveBits
	} else {
		c.width -= bound
		*p -= *p >> moveBits
	}
	c.normalize()
	return b
}

// direct codes n bits that are as likely one as zero, the highest first.
func (c *coder) direct(v uint32, n int) uint32 {
	got := uint32(0)
	for n--; n >= 0; n-- {
		c.width >>= 1
		b := v >> n & 1
		if c.decoding {
			b = 0
			if c.code >= c.width {
				c.code -= c.width
				b = 1
			}
		} else if b != 0 {
			c.low += uint64(c.width)
		}
		got = got<<1 | b
		c.normalize()
	}
	return got
}

// tree codes a number of so many bits, the highest first; reverse the lowest first.
func (c *coder) tree(p []uint16, v uint32, bits int) uint32 {
	m := uint32(1)
	for i := bits - 1; i >= 0; i-- {
		m = m<<1 | c.bit(&p[m], v>>i&1)
	}
	return m - 1<<bits
}

func (c *coder) reverse(p []uint16, v uint32, bits int) uint32 {
	m, got := uint32(1), uint32(0)
	for i := range bits {
		b := c.bit(&p[m], v>>i&1)
		m = m<<1 | b
		got |= b << i
	}
	return got
}

// shift puts out the highest byte of low.
func (c *coder) shift() {
	if c.low < 0xff<<24 || c.low>>32 != 0 {
		carry := byte(c.low >> 32)
		for ; c.pending > 0; c.pending-- {
			c.out = append(c.out, c.next+carry)
			c.next = 0xff
		}
		c.next = byte(c.low >> 24)
	}
	c.pending++
	c.low = c.low & (1<<24 - 1) << 8
}

// flush ends what is encoded.
func (c *coder) flush() {
	for range coderHead {
		c.shift()
	}
}

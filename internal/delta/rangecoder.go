package delta

// coder is an arithmetic coder of bits, in either direction: models are written once
// and run by both sides, so they cannot drift apart. Only integers are used, so that
// every processor computes the same.
type coder struct {
	low, high uint32
	code      uint32 // decoding only
	in        []byte
	at        int // may run past the end of in: see overrun
	out       []byte
	decoding  bool
}

func newEncoder(out []byte) coder { return coder{high: 0xffffffff, out: out} }

func newDecoder(in []byte) coder {
	c := coder{high: 0xffffffff, in: in, decoding: true}
	for range 4 {
		c.code = c.code<<8 | uint32(c.next())
	}
	return c
}

// next is the next byte, or zero after the end.
func (c *coder) next() byte {
	c.at++
	if c.at > len(c.in) {
		return 0
	}
	return c.in[c.at-1]
}

// overrun says that more bytes were wanted than there are. An encoder leaves out up
// to four bytes at the end.
func (c *coder) overrun() bool { return c.at > len(c.in)+4 }

// leftOver says that there are bytes that were not looked at: an encoder writes none.
func (c *coder) leftOver() bool { return c.at < len(c.in) }

// bit codes a bit that is one with a probability of p in 65536, 0 < p < 65536. It
// returns the bit: that given when encoding, that found when decoding.
func (c *coder) bit(p uint32, b int) int {
	mid := c.low + uint32(uint64(c.high-c.low)*uint64(p)>>16)
	if c.decoding {
		b = 0
		if c.code <= mid {
			b = 1
		}
	}
	if b != 0 {
		c.high = mid
	} else {
		c.low = mid + 1
	}
	for (c.low^c.high)>>24 == 0 {
		if c.decoding {
			c.code = c.code<<8 | uint32(c.next())
		} else {
			c.out = append(c.out, byte(c.high>>24))
		}
		c.low <<= 8
		c.high = c.high<<8 | 0xff
	}
	return b
}

// stored codes a byte as it is.
func (c *coder) stored(v byte) byte {
	got := 0
	for k := 7; k >= 0; k-- {
		got = got<<1 | c.bit(1<<15, int(v>>k&1))
	}
	return byte(got)
}

// finish returns what was encoded.
func (c *coder) finish() []byte {
	// One byte that lies between low and high, whatever follows it, is mostly enough.
	if c.low>>24 != c.high>>24 && c.low&0xffffff != 0 {
		return append(c.out, byte(c.low>>24)+1)
	}
	return append(c.out, byte(c.low>>24), byte(c.low>>16), byte(c.low>>8), byte(c.low))
}

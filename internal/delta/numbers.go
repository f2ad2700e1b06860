package delta

import "math/bits"

// numbers codes integers of a kind: how many bits one has, in contexts, then the
// bits themselves, of which the highest are modelled as well.
type numbers struct {
	width *mixer
	bits  []uint32 // counters
	last  [3]uint32
}

const (
	numberLimit = 255
	numberHigh  = 4 // modelled bits below the highest
)

func newNumbers() *numbers {
	n := &numbers{width: newMixer(4, 64, 12, numberLimit, 12), bits: make([]uint32, 34<<(numberHigh+1))}
	for i := range n.bits {
		n.bits[i] = counterStart
	}
	return n
}

// code codes v, of at most 32 bits, where context is what the caller knows about it.
func (n *numbers) code(c *coder, context uint32, v uint32) uint32 {
	w := uint32(bits.Len32(v)) // 0 to 32, in 6 bits
	n.width.hash[0] = hash2(1, context)
	n.width.hash[1] = hash3(2, context, n.last[0])
	n.width.hash[2] = hash3(3, n.last[0], n.last[1])
	n.width.hash[3] = hash3(4, context, n.last[0]<<12|n.last[1]<<6|n.last[2])
	part := uint32(1)
	for k := 5; k >= 0; k-- {
		for i := range 4 {
			n.width.slot[i] = uint32(i)<<n.width.bits | mix32(n.width.hash[i]+part*0x9e3779b1)>>(32-n.width.bits)
		}
		part = part<<1 | uint32(n.width.bit(c, int(part), int(w>>k&1)))
	}
	w = min(part&63, 32)
	n.last[2], n.last[1], n.last[0] = n.last[1], n.last[0], w
	if w < 2 {
		return w
	}
	got := uint32(1)
	t := n.width.t
	for k := int(w) - 2; k >= 0; k-- {
		b := int(v >> k & 1)
		if depth := int(w) - 2 - k; depth < numberHigh {
			counter := &n.bits[w<<(numberHigh+1)|1<<depth|got&(1<<depth-1)]
			b = c.bit(squash(int32(t.stretch[*counter>>20]), t), b)
			counterUpdate(counter, b, numberLimit, t)
		} else {
			b = c.bit(1<<15, b)
		}
		got = got<<1 | uint32(b)
	}
	return got
}

// zigzag maps small numbers of either sign to small numbers.
func zigzag(v int32) uint32 { return uint32(v)<<1 ^ uint32(v>>31) }

func unzigzag(u uint32) int32 { return int32(u>>1) ^ -int32(u&1) }

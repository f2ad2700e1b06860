package delta

// A counter is an adaptive probability of a one: 22 bits of it, and in the low 10
// bits how often it was used, up to a limit: the first bits move it most.
const counterStart = 1 << 31

func counterUpdate(c *uint32, b int, limit uint32, t *logisticTables) {
	v := *c
	n := v & 1023
	p := v >> 10
	if b != 0 {
		p += uint32(uint64(1<<22-1-p) * uint64(t.recip[n]) >> 16)
	} else {
		p -= uint32(uint64(p) * uint64(t.recip[n]) >> 16)
	}
	if n < limit {
		n++
	}
	*c = p<<10 | n
}

const maxInputs = 16

// mixer predicts bits from counters, one in each of several contexts, weighted by
// what proved right lately.
type mixer struct {
	inputs int
	limit  uint32 // of the counters
	rate   int32  // of the weights
	start  int32
	bits   uint // log2 of the counters of an input
	tables []uint32
	// weights of each set: the caller's choice by what it knows beforehand.
	weights []int32
	sets    int

	hash [maxInputs]uint32 // contexts, set by the caller before each symbol
	slot [maxInputs]uint32
	x    [maxInputs]int32
	t    *logisticTables
}

func newMixer(inputs, sets int, bits uint, limit uint32, rate int32) *mixer {
	m := &mixer{inputs: inputs, sets: sets, bits: bits, limit: limit, rate: rate, t: logistic()}
	m.start = int32(65536 * 10 / (inputs*3 + 7))
	m.tables = make([]uint32, inputs<<bits)
	m.weights = make([]int32, sets*(inputs+1))
	m.reset()
	return m
}

// reset forgets everything.
func (m *mixer) reset() {
	for i := range m.tables {
		m.tables[i] = counterStart
	}
	for i := range m.weights {
		m.weights[i] = m.start
	}
	for i := m.inputs; i < len(m.weights); i += m.inputs + 1 {
		m.weights[i] = 0
	}
}

// bit codes one bit in the contexts m.slot, which are indices into m.tables.
func (m *mixer) bit(c *coder, set int, b int) int {
	n := m.inputs
	t := m.t
	w := m.weights[set*(n+1):][:n+1]
	var counters [maxInputs]*uint32
	dot := 256 * int64(w[n])
	for i, weight := range w[:n] {
		k := &m.tables[m.slot[i&15]]
		x := int32(t.stretch[*k>>20])
		counters[i&15], m.x[i&15] = k, x
		dot += int64(x) * int64(weight)
	}
	p := squash(int32(dot>>16), t)
	b = c.bit(p, b)
	err := int64((int32(b<<16) - int32(p)) * m.rate >> 4)
	w[n] += int32((256*err + 1<<15) >> 16)
	for i := range w[:n] {
		w[i] += int32((int64(m.x[i&15])*err + 1<<15) >> 16)
		counterUpdate(counters[i&15], b, m.limit, t)
	}
	return b
}

// flag codes a bit in the contexts m.hash.
func (m *mixer) flag(c *coder, set int, b int) int {
	for i := range m.inputs {
		m.slot[i&15] = uint32(i)<<m.bits | m.hash[i&15]>>(32-m.bits)
	}
	return m.bit(c, set, b)
}

// symbol codes a byte in the contexts m.hash, bit by bit from the highest. It uses
// the 256 sets of weights from the given one on.
func (m *mixer) symbol(c *coder, set int, v byte) byte {
	part, bits := uint32(1), m.bits&31
	for k := 7; k >= 0; k-- {
		salt := part * 0x9e3779b1
		for i := range m.slot[:m.inputs] {
			m.slot[i] = uint32(i)<<bits | (m.hash[i]+salt)*0x2c1b3c6d>>(32-bits)
		}
		part = part<<1 | uint32(m.bit(c, set+int(part), int(v>>k&1)))
	}
	return byte(part)
}

// hash2 and hash3 mix numbers into a context.
func hash2(a, b uint32) uint32 { return mix32(a*0x9e3779b1 ^ mix32(b+0x7f4a7c15)) }

func hash3(a, b, c uint32) uint32 { return hash2(hash2(a, b), c) }

func mix32(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x7feb352d
	x ^= x >> 15
	x *= 0x846ca68b
	return x ^ x>>16
}

package deflate

import (
	"math/bits"

	"groundswell/internal/deflate/codes"
)

const (
	literalCodes  = firstLength + codes.Lengths
	distanceCodes = codes.Distances
	endBlock      = 256
	firstLength   = 257
	heapSize      = 2*literalCodes + 1
)

// treeKind is what the trees of one kind have in common.
type treeKind struct {
	fixed    *tree // the one that needs not be sent; nil: none
	extra    []uint8
	base     int // the first code with extra bits
	elements int
	longest  uint16
}

var (
	literalKind  = treeKind{&fixedLiterals, codes.LengthExtra[:codes.Lengths], firstLength, literalCodes, 15}
	distanceKind = treeKind{&fixedDistances, codes.DistanceExtra[:codes.Distances], 0, distanceCodes, 15}
	lengthKind   = treeKind{nil, []uint8{16: 2, 17: 3, 18: 7}, 0, 19, 7}
)

// tree is a code. zlib's own, of all that have the least cost, are found by building as it
// does: by a heap in which of equals the shallower comes first.
type tree struct {
	kind   *treeKind
	last   int              // the highest code in use
	count  [heapSize]uint16 // by code: how often it occurs; behind them: of the inner nodes
	length [heapSize]uint16 // in bits
	code   [literalCodes + 2]uint16
}

// cost is what a block takes, in bits.
type cost struct{ own, fixed int }

// builder is what building needs; none of it outlives that.
type builder struct {
	*tree
	heap   [heapSize]int32 // nodes, the least at 1; behind top: all that left it, the most frequent first
	size   int
	top    int
	depth  [heapSize]uint8
	parent [heapSize]int32
}

// build finds the lengths of the codes, and the codes, and adds to the cost.
func (t *tree) build(sum *cost) {
	b := builder{tree: t, top: heapSize}
	t.last = -1
	for code := range t.kind.elements {
		if t.length[code] = 0; t.count[code] != 0 {
			b.size++
			b.heap[b.size] = int32(code)
			t.last = code
		}
	}
	// There are two codes at least, as the format wants it.
	for b.size < 2 {
		code := 0
		if t.last < 2 {
			t.last++
			code = t.last
		}
		b.size++
		b.heap[b.size] = int32(code)
		t.count[code] = 1
		sum.own--
		if t.kind.fixed != nil {
			sum.fixed -= int(t.kind.fixed.length[code])
		}
	}
	for k := b.size / 2; k >= 1; k-- {
		b.down(k)
	}
	for node := t.kind.elements; b.size >= 2; node++ {
		one := b.heap[1]
		b.heap[1] = b.heap[b.size]
		b.size--
		b.down(1)
		other := b.heap[1]
		b.top -= 2
		b.heap[b.top+1], b.heap[b.top] = one, other
		t.count[node] = t.count[one] + t.count[other]
		b.depth[node] = max(b.depth[one], b.depth[other]) + 1
		b.parent[one], b.parent[other] = int32(node), int32(node)
		b.heap[1] = int32(node)
		b.down(1)
	}
	b.top--
	b.heap[b.top] = b.heap[1]
	b.measure(sum)
}

func (b *builder) before(n, m int32) bool {
	return b.count[n] < b.count[m] || b.count[n] == b.count[m] && b.depth[n] <= b.depth[m]
}

func (b *builder) down(k int) {
	v := b.heap[k]
	for j := 2 * k; j <= b.size; j *= 2 {
		if j < b.size && b.before(b.heap[j+1], b.heap[j]) {
			j++
		}
		if b.before(v, b.heap[j]) {
			break
		}
		b.heap[k] = b.heap[j]
		k = j
	}
	b.heap[k] = v
}

// measure finds the lengths, none longer than the kind allows.
func (b *builder) measure(sum *cost) {
	t, kind := b.tree, b.kind
	var counts [16]int
	overflow := 0
	t.length[b.heap[b.top]] = 0
	for _, n := range b.heap[b.top+1:] {
		size := t.length[b.parent[n]] + 1
		if size > kind.longest {
			size = kind.longest
			overflow++
		}
		t.length[n] = size
		if int(n) > t.last {
			continue // an inner node
		}
		counts[size]++
		extra := 0
		if int(n) >= kind.base {
			extra = int(kind.extra[int(n)-kind.base])
		}
		sum.own += int(t.count[n]) * (int(size) + extra)
		if kind.fixed != nil {
			sum.fixed += int(t.count[n]) * (int(kind.fixed.length[n]) + extra)
		}
	}
	if overflow > 0 {
		b.shorten(&counts, overflow, sum)
	}
	t.assign(&counts)
}

// shorten makes room for the codes that were too long, and gives lengths out anew.
func (b *builder) shorten(counts *[16]int, overflow int, sum *cost) {
	t, longest := b.tree, int(b.kind.longest)
	for ; overflow > 0; overflow -= 2 {
		size := longest - 1
		for counts[size] == 0 {
			size--
		}
		counts[size]--
		counts[size+1] += 2
		counts[longest]--
	}
	h := heapSize
	for size := longest; size > 0; size-- {
		for n := counts[size]; n > 0; {
			h--
			code := b.heap[h]
			if int(code) > t.last {
				continue
			}
			sum.own += (size - int(t.length[code])) * int(t.count[code])
			t.length[code] = uint16(size)
			n--
		}
	}
}

// assign gives out the codes, by their lengths (RFC 1951, 3.2.2).
func (t *tree) assign(counts *[16]int) {
	var next [16]uint16
	code := 0
	for size := 1; size < len(next); size++ {
		code = (code + counts[size-1]) << 1
		next[size] = uint16(code)
	}
	for n := 0; n <= t.last; n++ {
		if size := t.length[n]; size > 0 {
			t.code[n] = bits.Reverse16(next[size]) >> (16 - size)
			next[size]++
		}
	}
}

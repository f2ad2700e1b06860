package deflate

import "groundswell/internal/deflate/codes"

// symbol is a literal, or a match.
type symbol struct {
	distance uint16 // 0: a literal
	length   uint8  // of a match, less minMatch; or the literal
}

// blockWriter gathers symbols, and writes blocks of them.
type blockWriter struct {
	out     []byte
	bits    uint64
	pending uint // how many bits wait

	symbols []symbol
	most    int  // symbols in a block
	early   bool // a block may end where it compresses well (gzip)
	matches int

	literals, distances, lengths tree
}

func (b *blockWriter) reset(most int, early bool) {
	if cap(b.symbols) < most {
		b.symbols = make([]symbol, 0, most)
	}
	b.most, b.early, b.bits, b.pending = most, early, 0, 0
	b.literals.kind, b.distances.kind, b.lengths.kind = &literalKind, &distanceKind, &lengthKind
	b.begin()
}

func (b *blockWriter) begin() {
	b.symbols, b.matches = b.symbols[:0], 0
	for _, t := range []*tree{&b.literals, &b.distances, &b.lengths} {
		clear(t.count[:t.kind.elements])
	}
	b.literals.count[endBlock] = 1
}

// literal adds one, and says whether the block is full; done is how many bytes of content
// the block has without it.
func (b *blockWriter) literal(v byte, done int) bool {
	b.symbols = append(b.symbols, symbol{0, v})
	b.literals.count[v]++
	return b.full(done)
}

// match adds one, as literal does.
func (b *blockWriter) match(distance, length, done int) bool {
	s := symbol{uint16(distance), uint8(length - minMatch)}
	b.symbols = append(b.symbols, s)
	b.literals.count[codes.OfLength(int(s.length), false)+firstLength]++
	b.distances.count[codes.OfDistance(int(s.distance)-1)]++
	b.matches++
	return b.full(done)
}

func (b *blockWriter) full(done int) bool {
	n := len(b.symbols)
	if b.early && n%4096 == 0 {
		size := 8 * n
		for code, count := range b.distances.count[:distanceCodes] {
			size += int(count) * (5 + int(codes.DistanceExtra[code]))
		}
		if b.matches < n/2 && size/8 < done/2 {
			return true
		}
	}
	return n == b.most-1
}

// flush writes a block of content, which may be nil if it is not at hand any more; size is
// its length.
func (b *blockWriter) flush(content []byte, size int, last bool) {
	final := uint64(0)
	if last {
		final = 1
	}
	var sum cost
	b.literals.build(&sum)
	b.distances.build(&sum)
	order := b.buildLengths(&sum)
	best, fixed := (sum.own+3+7)/8, (sum.fixed+3+7)/8
	best = min(best, fixed)
	switch {
	case size+4 <= best && content != nil:
		b.send(final, 3)
		b.align()
		b.out = append(b.out, byte(size), byte(size>>8), ^byte(size), ^byte(size>>8))
		b.out = append(b.out, content...)
	case fixed == best:
		b.send(1<<1+final, 3)
		b.sendSymbols(&fixedLiterals, &fixedDistances)
	default:
		b.send(2<<1+final, 3)
		b.sendTrees(order)
		b.sendSymbols(&b.literals, &b.distances)
	}
	b.begin()
	if last {
		b.align()
	}
}

// send writes the lowest n bits of v, at most 16.
func (b *blockWriter) send(v uint64, n uint) {
	b.bits |= v << b.pending
	if b.pending += n; b.pending >= 48 {
		b.out = append(b.out, byte(b.bits), byte(b.bits>>8), byte(b.bits>>16), byte(b.bits>>24), byte(b.bits>>32), byte(b.bits>>40))
		b.bits >>= 48
		b.pending -= 48
	}
}

// align fills the last byte.
func (b *blockWriter) align() {
	for b.pending > 0 {
		b.out = append(b.out, byte(b.bits))
		b.bits >>= 8
		b.pending -= min(b.pending, 8)
	}
}

func (b *blockWriter) sendCode(t *tree, code int) { b.send(uint64(t.code[code]), uint(t.length[code])) }

func (b *blockWriter) sendSymbols(literals, distances *tree) {
	for _, s := range b.symbols {
		if s.distance == 0 {
			b.sendCode(literals, int(s.length))
			continue
		}
		code := codes.OfLength(int(s.length), false)
		b.sendCode(literals, code+firstLength)
		b.send(uint64(s.length)-uint64(codes.LengthBases[code]), uint(codes.LengthExtra[code]))
		code = codes.OfDistance(int(s.distance) - 1)
		b.sendCode(distances, code)
		b.send(uint64(s.distance-1)-uint64(codes.DistanceBases[code]), uint(codes.DistanceExtra[code]))
	}
	b.sendCode(literals, endBlock)
}

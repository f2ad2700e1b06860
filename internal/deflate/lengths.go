package deflate

import "groundswell/internal/deflate/codes"

const (
	noneBefore  = 0xffff
	noneBehind  = 0xfffe
	repeatsMost = 6
)

// runs calls visit with the codes that stand for the lengths of a tree's codes, in order:
// a length and how often it stands there by itself, or a code of repetition and how often
// it repeats.
func (t *tree) runs(visit func(code, n int)) {
	last, count := uint16(noneBefore), 0
	for n := 0; n <= t.last; n++ {
		size, next := t.length[n], uint16(noneBehind)
		if n < t.last {
			next = t.length[n+1]
		}
		least, most := 4, 7
		switch {
		case size == 0:
			least, most = 3, 138
		case size == last:
			least, most = 3, repeatsMost
		}
		count++
		if count < most && size == next {
			continue
		}
		switch {
		case count < least:
			visit(int(size), count)
		case size != 0:
			if size != last {
				visit(int(size), 1)
				count--
			}
			visit(codes.Repeat, count)
		case count <= 10:
			visit(codes.Zeros, count)
		default:
			visit(codes.ManyZeros, count)
		}
		last, count = size, 0
	}
}

// buildLengths builds the code of the code lengths, and says how many of its lengths are
// sent.
func (b *blockWriter) buildLengths(sum *cost) int {
	note := func(code, n int) {
		if code < codes.Repeat {
			b.lengths.count[code] += uint16(n)
		} else {
			b.lengths.count[code]++
		}
	}
	b.literals.runs(note)
	b.distances.runs(note)
	b.lengths.build(sum)
	n := codes.MostSent
	for n > codes.LeastSent && b.lengths.length[codes.SendOrder[n-1]] == 0 {
		n--
	}
	sum.own += 3*n + 5 + 5 + 4
	return n
}

func (b *blockWriter) sendTrees(order int) {
	b.send(uint64(b.literals.last+1-firstLength), 5)
	b.send(uint64(b.distances.last), 5)
	b.send(uint64(order-codes.LeastSent), 4)
	for _, code := range codes.SendOrder[:order] {
		b.send(uint64(b.lengths.length[code]), 3)
	}
	send := func(code, n int) {
		switch code {
		case codes.Repeat:
			b.sendCode(&b.lengths, code)
			b.send(uint64(n-3), 2)
		case codes.Zeros:
			b.sendCode(&b.lengths, code)
			b.send(uint64(n-3), 3)
		case codes.ManyZeros:
			b.sendCode(&b.lengths, code)
			b.send(uint64(n-11), 7)
		default:
			for range n {
				b.sendCode(&b.lengths, code)
			}
		}
	}
	b.literals.runs(send)
	b.distances.runs(send)
}

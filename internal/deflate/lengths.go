package deflate

// The codes of the code lengths (RFC 1951, 3.2.7), in the order in which they are sent.
const (
	repeat      = 16 // the last length 3 to 6 times
	zeros       = 17 // 3 to 10 zeros
	manyZeros   = 18 // 11 to 138 zeros
	leastSent   = 4
	mostSent    = 19
	noneBefore  = 0xffff
	noneBehind  = 0xfffe
	repeatsMost = 6
)

var sendOrder = [mostSent]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

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
			visit(repeat, count)
		case count <= 10:
			visit(zeros, count)
		default:
			visit(manyZeros, count)
		}
		last, count = size, 0
	}
}

// buildLengths builds the code of the code lengths, and says how many of its lengths are
// sent.
func (b *blockWriter) buildLengths(sum *cost) int {
	note := func(code, n int) {
		if code < repeat {
			b.lengths.count[code] += uint16(n)
		} else {
			b.lengths.count[code]++
		}
	}
	b.literals.runs(note)
	b.distances.runs(note)
	b.lengths.build(sum)
	n := mostSent
	for n > leastSent && b.lengths.length[sendOrder[n-1]] == 0 {
		n--
	}
	sum.own += 3*n + 5 + 5 + 4
	return n
}

func (b *blockWriter) sendTrees(order int) {
	b.send(uint64(b.literals.last+1-firstLength), 5)
	b.send(uint64(b.distances.last), 5)
	b.send(uint64(order-leastSent), 4)
	for _, code := range sendOrder[:order] {
		b.send(uint64(b.lengths.length[code]), 3)
	}
	send := func(code, n int) {
		switch code {
		case repeat:
			b.sendCode(&b.lengths, code)
			b.send(uint64(n-3), 2)
		case zeros:
			b.sendCode(&b.lengths, code)
			b.send(uint64(n-3), 3)
		case manyZeros:
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

package delta

import (
	"encoding/binary"
	"iter"
	"sort"
)

// packedCopies are copies, ascending in the new image. There may be many, and a device looks
// at few of them at a time: they take some six bytes each, 15 at most. The zero one is empty.
type packedCopies struct {
	n int
	// packed has of each copy the bytes of the new image before it, its length, and by how
	// much its shift is another one than that of the copy before.
	packed []byte
	marks  []copyMark // of each copyStride copies the first one
	last   copyState
}

// copyState is what a copy is packed against.
type copyState struct{ end, shift int32 }

// copyMark is where a copy stands in packed.
type copyMark struct {
	copyState
	offset int32
}

const copyStride = 128

func packCopies(list []copied) (p packedCopies) {
	for _, c := range list {
		p.add(c)
	}
	return p
}

// add appends a copy that begins where the last one ends, or behind.
func (p *packedCopies) add(c copied) {
	if p.n%copyStride == 0 {
		p.marks = append(p.marks, copyMark{p.last, int32(len(p.packed))})
	}
	p.packed = binary.AppendUvarint(p.packed, uint64(c.at-p.last.end))
	p.packed = binary.AppendUvarint(p.packed, uint64(c.size))
	shift := c.from - c.at
	p.packed = binary.AppendUvarint(p.packed, uint64(zigzag(shift-p.last.shift)))
	p.last = copyState{c.end(), shift}
	p.n++
}

// since gives the copies that end behind an offset of the new image, in order.
func (p *packedCopies) since(at int64) iter.Seq[copied] {
	return func(yield func(copied) bool) {
		k := sort.Search(len(p.marks), func(i int) bool { return int64(p.marks[i].end) > at })
		if len(p.marks) == 0 {
			return
		}
		m := p.marks[max(k, 1)-1]
		for s, rest := m.copyState, p.packed[m.offset:]; len(rest) > 0; {
			var c copied
			c, rest = s.next(rest)
			if int64(c.end()) > at && !yield(c) {
				return
			}
		}
	}
}

// next unpacks a copy.
func (s *copyState) next(b []byte) (copied, []byte) {
	gap, n := binary.Uvarint(b)
	size, m := binary.Uvarint(b[n:])
	step, k := binary.Uvarint(b[n+m:])
	s.shift += unzigzag(uint32(step))
	c := copied{at: s.end + int32(gap), size: int32(size)}
	c.from = c.at + s.shift
	s.end = c.end()
	return c, b[n+m+k:]
}

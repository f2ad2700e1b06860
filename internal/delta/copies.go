package delta

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
)

// addresses maps offsets in the old image to the new one, by the copies. It is what
// both sides know before a segment is decoded.
//
// A device has a hundred thousand ranges and more, so they take six bytes each: where one
// begins stands by its lowest 16 bits, as the pages of that size are told apart anyway.
type addresses struct {
	from   []uint16 // of the ranges, ascending in the old image, without overlap
	shifts []int32  // of each: new offset - old offset
	first  []int32  // by page: its first range; one more for the end
	end    int64    // offsets from here on did not move
}

// oldRange goes from an offset of the old image up to the next one.
type oldRange struct{ from, shift int32 }

const (
	addressPage = 16 // bits of an offset in a page
	// addressEnd: behind the end of the old image, addresses move up to a multiple of so many
	// bytes. The format has it so.
	addressEnd = 4096
	// addressLong is the shortest copy whose shift goes on behind its end.
	addressLong = 64
	// addressShort is the shortest copy that counts: shorter ones are like something
	// else more often than they are it.
	addressShort = 24
)

// newAddresses takes copies in the order of the new image. Of several copies of the
// same old bytes the longest counts, and the first of those in the new image.
func newAddresses(all iter.Seq[copied], oldLength int64) *addresses {
	var copies []copied
	for c := range all {
		if c.size >= addressShort {
			copies = append(copies, c)
		}
	}
	slices.SortStableFunc(copies, func(a, b copied) int { return cmp.Compare(a.from, b.from) })

	ranges := make([]oldRange, 0, len(copies))
	active := &longest{copies: copies}
	var going int32 // the shift where no copy is
	begin := func(from, shift int32) {
		if n := len(ranges); n > 0 && ranges[n-1].from == from {
			ranges[n-1].shift = shift
		} else if n == 0 || ranges[n-1].shift != shift {
			ranges = append(ranges, oldRange{from, shift})
		}
	}
	// settle says what holds from at on, when some copies may have ended there.
	settle := func(at int32) {
		for len(active.list) > 0 {
			c := copies[active.list[0]]
			if c.from+c.size > at {
				begin(at, c.at-c.from)
				return
			}
			heap.Pop(active)
		}
		begin(at, going)
	}
	finish := func(before int32) { // the ends before the next beginning
		for len(active.list) > 0 {
			c := copies[active.list[0]]
			if c.from+c.size >= before {
				return
			}
			settle(c.from + c.size)
		}
	}
	for i, c := range copies {
		finish(c.from)
		heap.Push(active, int32(i))
		if c.size >= addressLong {
			going = c.at - c.from
		}
		settle(c.from)
	}
	finish(MaxImage)
	return packAddresses(ranges, oldLength)
}

func packAddresses(ranges []oldRange, oldLength int64) *addresses {
	end := (oldLength/addressEnd + 1) * addressEnd
	a := &addresses{
		from:   make([]uint16, len(ranges)),
		shifts: make([]int32, len(ranges)),
		first:  make([]int32, (end-1)>>addressPage+2),
		end:    end,
	}
	page := 0
	for i, r := range ranges {
		a.from[i], a.shifts[i] = uint16(r.from), r.shift
		for ; page <= int(r.from>>addressPage) && page < len(a.first); page++ {
			a.first[page] = int32(i)
		}
	}
	for ; page < len(a.first); page++ {
		a.first[page] = int32(len(ranges))
	}
	return a
}

// longest is a heap of copies, by their places in a list.
type longest struct {
	copies []copied
	list   []int32
}

func (h *longest) Len() int { return len(h.list) }
func (h *longest) Less(i, j int) bool {
	x, y := h.copies[h.list[i]], h.copies[h.list[j]]
	return x.size > y.size || x.size == y.size && x.at < y.at
}
func (h *longest) Swap(i, j int) { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *longest) Push(v any)    { h.list = append(h.list, v.(int32)) }
func (h *longest) Pop() any {
	v := h.list[len(h.list)-1]
	h.list = h.list[:len(h.list)-1]
	return v
}

// shift is by how much the offset in the old image moved. Between copies it is that
// of the long copy before; without one, zero.
func (a *addresses) shift(old int64) int64 {
	if old < 0 || old >= a.end {
		return 0
	}
	page := old >> addressPage
	lo, hi := int(a.first[page]), int(a.first[page+1])
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if a.from[mid] <= uint16(old) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0
	}
	return int64(a.shifts[lo-1])
}

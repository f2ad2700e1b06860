package delta

import (
	"cmp"
	"container/heap"
	"slices"
)

// addresses maps offsets in the old image to the new one, by the copies. It is what
// both sides know before a segment is decoded.
type addresses struct {
	byOld []oldRange // ascending by from, without overlap
	near  []int32    // near[o>>addressPage] is the first range that may hold such an o
}

type oldRange struct{ from, shift int32 } // shift: new offset - old offset

const (
	addressPage = 12
	// addressLong is the shortest copy whose shift goes on behind its end.
	addressLong = 64
	// addressShort is the shortest copy that counts: shorter ones are like something
	// else more often than they are it.
	addressShort = 24
)

// newAddresses takes copies in the order of the new image. Of several copies of the
// same old bytes the longest counts, and the first of those.
func newAddresses(copies []copied, oldLength int64) *addresses {
	byFrom := make([]int32, 0, len(copies))
	for i, c := range copies {
		if c.size >= addressShort {
			byFrom = append(byFrom, int32(i))
		}
	}
	slices.SortStableFunc(byFrom, func(i, j int32) int { return cmp.Compare(copies[i].from, copies[j].from) })

	a := &addresses{byOld: make([]oldRange, 0, len(byFrom))}
	active := &longest{copies: copies}
	var going int32 // the shift where no copy is
	begin := func(from, shift int32) {
		if n := len(a.byOld); n > 0 && a.byOld[n-1].from == from {
			a.byOld[n-1].shift = shift
		} else if n == 0 || a.byOld[n-1].shift != shift {
			a.byOld = append(a.byOld, oldRange{from, shift})
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
	for _, i := range byFrom {
		c := copies[i]
		finish(c.from)
		heap.Push(active, i)
		if c.size >= addressLong {
			going = c.at - c.from
		}
		settle(c.from)
	}
	finish(MaxImage)
	a.byOld = slices.Clone(a.byOld) // without the room to grow
	a.index(oldLength)
	return a
}

func (a *addresses) index(oldLength int64) {
	a.near = make([]int32, oldLength>>addressPage+2)
	i := 0
	for page := range a.near {
		for i < len(a.byOld) && int64(a.byOld[i].from) < int64(page)<<addressPage {
			i++
		}
		a.near[page] = int32(i)
	}
}

// longest is a heap of copies, by their numbers.
type longest struct {
	copies []copied
	list   []int32
}

func (h *longest) Len() int { return len(h.list) }
func (h *longest) Less(i, j int) bool {
	x, y := h.list[i], h.list[j]
	return h.copies[x].size > h.copies[y].size || h.copies[x].size == h.copies[y].size && x < y
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
	page := old >> addressPage
	if old < 0 || page+1 >= int64(len(a.near)) {
		return 0
	}
	lo, hi := int(a.near[page]), int(a.near[page+1])
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if int64(a.byOld[mid].from) <= old {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0
	}
	return int64(a.byOld[lo-1].shift)
}

package delta

import "slices"

// addresses maps offsets in the old image to the new one, by the copies. It is what
// both sides know before a segment is decoded.
type addresses struct {
	byOld []oldRange // ascending by from
	near  []int32    // near[o>>addressPage] is the first range that may hold such an o
}

type oldRange struct{ from, shift int32 } // shift: new offset - old offset

const addressPage = 12

// newAddresses takes copies in the order of the new image.
func newAddresses(copies []copied, oldLength int64) *addresses {
	a := &addresses{byOld: make([]oldRange, len(copies))}
	for i, c := range copies {
		a.byOld[i] = oldRange{c.from, c.at - c.from}
	}
	slices.SortStableFunc(a.byOld, func(x, y oldRange) int { return int(x.from) - int(y.from) })
	a.near = make([]int32, oldLength>>addressPage+2)
	i := 0
	for page := range a.near {
		for i < len(a.byOld) && int64(a.byOld[i].from) < int64(page)<<addressPage {
			i++
		}
		a.near[page] = int32(i)
	}
	return a
}

// shift is by how much the offset in the old image moved. Between copies it is that
// of the copy before; without any copy before, zero.
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

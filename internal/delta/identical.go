package delta

import (
	"slices"

	"groundswell/internal/prefix"
)

const (
	// identicalLeast is the shortest range that is found to be identical without
	// sorting anything.
	identicalLeast = 4 << 10
	// anchorBits: one position in 2^12 is an anchor, by the 64 bytes before it.
	anchorBits = 12
)

// gear has a number for each byte: a rolling hash of the last 64 bytes is a shift and
// an addition (Xia et al., "Ddelta", 2014).
var gear = func() (table [256]uint64) {
	x := uint64(1)
	for i := range table { // splitmix64
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}()

// anchors calls f with positions that depend on the 64 bytes before them only, and
// with their hash; if grid is not zero, with its multiples as well.
func anchors(data []byte, grid int, f func(at int, hash uint64)) {
	h := uint64(0)
	for i, b := range data {
		h = h<<1 + gear[b]
		if i >= 63 && (h>>(64-anchorBits) == 0 || grid > 0 && (i+1)%grid == 0) {
			f(i+1, h)
		}
	}
}

// identical returns long ranges of the new image that stand in the old one as they
// are, ascending and without overlap.
func identical(old, new []byte) []copied {
	seen := make(map[uint64]int32, len(old)>>anchorBits)
	anchors(old, 0, func(at int, hash uint64) {
		if _, ok := seen[hash]; !ok {
			seen[hash] = int32(at)
		}
	})
	var list []copied
	end, shift := 0, 0 // of the last range
	// The grid is for long runs of one byte, which have no anchors: there the last range
	// goes on.
	anchors(new, identicalLeast, func(at int, hash uint64) {
		if at <= end {
			return
		}
		from, ok := seen[hash]
		if f := at + shift; f >= 64 && f <= len(old) && string(old[f-64:f]) == string(new[at-64:at]) {
			from, ok = int32(f), true
		}
		if !ok {
			return
		}
		back := 0
		for at-back > end && int(from)-back > 0 && new[at-back-1] == old[int(from)-back-1] {
			back++
		}
		n := back + prefix.Common(new[at:], old[from:])
		if n < identicalLeast {
			return
		}
		c := copied{int32(at - back), from - int32(back), int32(n)}
		list = append(list, c)
		end, shift = int(c.end()), int(c.from-c.at)
	})
	return list
}

// remains is what of the old image is in none of the copies, as a text to be sorted.
type remains struct {
	text   []byte
	starts []int32 // in the text, of each range
	from   []int32 // in the old image
}

// newRemains takes at most so many bytes.
func newRemains(old []byte, copies []copied, most int) *remains {
	if len(copies) == 0 && len(old) <= most {
		return &remains{text: old, starts: []int32{0}, from: []int32{0}}
	}
	byFrom := slices.Clone(copies)
	slices.SortFunc(byFrom, func(a, b copied) int { return int(a.from) - int(b.from) })
	r := &remains{}
	add := func(start, end int) {
		end = min(end, start+most-len(r.text))
		if end > start {
			r.starts = append(r.starts, int32(len(r.text)))
			r.from = append(r.from, int32(start))
			r.text = append(r.text, old[start:end]...)
		}
	}
	done := 0
	for _, c := range byFrom {
		add(done, int(c.from))
		done = max(done, int(c.from+c.size))
	}
	add(done, len(old))
	return r
}

// offset is where a position of the text is in the old image.
func (r *remains) offset(at int) int {
	i, found := slices.BinarySearch(r.starts, int32(at))
	if !found {
		i--
	}
	return int(r.from[i]) + at - int(r.starts[i])
}

// filter says which runs of eight bytes are surely not in a text: most searches in
// unlike images end here.
type filter struct {
	bits []uint64
	mask uint64
}

func newFilter(text []byte) *filter {
	n := uint64(1 << 16)
	for n < 4*uint64(len(text)) {
		n *= 2
	}
	f := &filter{bits: make([]uint64, n/64), mask: n - 1}
	for i := 0; i+8 <= len(text); i++ {
		h := filterHash(text[i:]) & f.mask
		f.bits[h/64] |= 1 << (h % 64)
	}
	return f
}

func filterHash(b []byte) uint64 {
	h := (uint64(loadWord(b, 4)) | uint64(loadWord(b[4:], 4))<<32) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}

// may says whether the first eight bytes may be in the text.
func (f *filter) may(key []byte) bool {
	if len(key) < 8 {
		return false
	}
	h := filterHash(key) & f.mask
	return f.bits[h/64]>>(h%64)&1 != 0
}

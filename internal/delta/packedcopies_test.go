package delta

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPackedCopiesAreThoseThatWerePacked, from any place on.
func TestPackedCopiesAreThoseThatWerePacked(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var list []copied
	at := int32(0)
	for range 5*copyStride + 3 {
		c := copied{at: at + r.Int32N(3)*r.Int32N(1_000), from: r.Int32N(MaxImage / 2), size: 1 + r.Int32N(2_000)}
		list, at = append(list, c), c.end()
	}
	list = append(list, copied{at: MaxImage - 1, from: 0, size: 1})
	for _, n := range []int{0, 1, copyStride, copyStride + 1, len(list)} {
		p := packCopies(list[:n])
		if got := slices.Collect(p.since(-1)); !slices.Equal(got, list[:n]) {
			t.Fatalf("%d copies: %d others come back", n, len(got))
		}
		for range 200 {
			from := int64(r.Int32N(at + 10))
			want := list[:n]
			for len(want) > 0 && int64(want[0].end()) <= from {
				want = want[1:]
			}
			if got := slices.Collect(p.since(from)); !slices.Equal(got, want) {
				t.Fatalf("%d copies, from %d on: %d, want %d", n, from, len(got), len(want))
			}
		}
	}
}

// TestACopyThatASegmentCutsIsKnownWhole: addresses are looked up by all of it.
func TestACopyThatASegmentCutsIsKnownWhole(t *testing.T) {
	list := []copied{{0, 500, 100}, {100, 2_000, 50}, {160, 900, 40}, {200, 4_000, 300}}
	h := &Head{copies: packCopies(list)}
	for _, s := range []Segment{{Start: 0, Size: 500}, {Start: 30, Size: 100}, {Start: 30, Size: 40}, {Start: 99, Size: 1}, {Start: 150, Size: 80}, {Start: 170, Size: 330}} {
		var p parts
		p.set(h, s)
		done := int32(0)
		for _, got := range p.list {
			if got.start != done || got.end <= got.start {
				t.Fatalf("%+v: %+v", s, p.list)
			}
			done = got.end
			if !got.copied() {
				continue
			}
			whole := p.whole(got, s)
			at := int32(s.Start) + got.start
			if !slices.Contains(list, whole) || at < whole.at || at >= whole.end() || got.from-at != whole.from-whole.at {
				t.Errorf("%+v: %+v is of %+v", s, got, whole)
			}
		}
		if int64(done) != s.Size {
			t.Errorf("%+v ends at %d", s, done)
		}
	}
}

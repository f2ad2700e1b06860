package delta

import (
	"context"
	"errors"
	"slices"

	"groundswell/internal/prefix"

	"golang.org/x/sync/errgroup"
)

// findCopies returns what of the new image resembles which part of the old one, for each
// of the gains by which that differs.
func findCopies(ctx context.Context, old, new []byte, workers int, limit limits) ([][]copied, error) {
	f, err := newFinder(ctx, old, new, workers, limit)
	if err != nil {
		return nil, err
	}
	var lists [][]copied
	for _, gain := range gains {
		list, err := f.copies(ctx, gain)
		if err != nil {
			return nil, err
		}
		if n := len(lists); n == 0 || !slices.Equal(list, lists[n-1]) {
			lists = append(lists, list)
		}
	}
	return lists, nil
}

// finder finds copies in a pair of images.
type finder struct {
	old, new []byte
	workers  int
	same     []copied // what is the same, in images that are not sorted as a whole
	find     func(key []byte, limit int) (length, at int)
}

// newFinder sorts what has to be sorted of the old image.
func newFinder(ctx context.Context, old, new []byte, workers int, limit limits) (*finder, error) {
	f := &finder{old: old, new: new, workers: workers}
	most, makes := limit.sortable(workers), len(new)
	if len(old) > min(limit.whole, most) {
		f.same = identical(old, new)
		for _, c := range f.same {
			makes -= int(c.size)
		}
	}
	if err := errors.Join(ctx.Err(), limit.fits(workers, makes)); err != nil {
		return nil, err
	}
	rest := newRemains(old, f.same, most)
	sorted, err := newSuffixes(rest.text)
	if err != nil {
		return nil, err
	}
	known := newFilter(rest.text)
	f.find = func(key []byte, limit int) (int, int) {
		if !known.may(key) {
			return 0, 0
		}
		n, at := sorted.longest(key, limit)
		if n == 0 {
			return 0, 0
		}
		from := rest.offset(int(at))
		if len(f.same) > 0 { // what follows in the text may be from elsewhere
			n = prefix.Common(key[:min(len(key), limit)], old[from:])
		}
		return n, from
	}
	return f, nil
}

// copies returns what of the new image resembles which part of the old one, by a gain.
func (f *finder) copies(ctx context.Context, gain int) ([]copied, error) {
	gaps := between(f.same, len(f.new))
	lists := make([][]copied, len(gaps))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.workers)
	for i, gap := range gaps {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			m := &matcher{old: f.old, new: f.new, gain: gain, find: f.find}
			lists[i] = m.copies(gap.start, gap.end, gap.start+gap.shift)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	list := slices.Concat(append(lists, f.same)...)
	slices.SortFunc(list, func(a, b copied) int { return int(a.at) - int(b.at) })
	return apart(tidy(list), f.old, f.new), nil
}

// gap is a range of the new image that remains to be matched.
type gap struct{ start, end, shift int } // shift: old - new offset of what is before it

// between cuts what is in none of the copies into parts of matchPart at most.
func between(same []copied, length int) []gap {
	var gaps []gap
	start, shift := 0, 0
	cut := func(end int) {
		for start < end {
			next := min(start+matchPart, end)
			gaps = append(gaps, gap{start, next, shift})
			start = next
		}
	}
	for _, c := range same {
		cut(int(c.at))
		start, shift = int(c.end()), int(c.from-c.at)
	}
	cut(length)
	return gaps
}

// unlike is how many bytes in a row that all differ are no copy any more: what they are
// says nothing about what they become.
const unlike = 32

// apart takes out of the copies what is unlike.
func apart(list []copied, old, new []byte) []copied {
	var out []copied
	for _, c := range list {
		a, b := old[c.from:][:c.size], new[c.at:][:c.size]
		begun, run := 0, 0
		part := func(end int) {
			if end > begun {
				out = append(out, copied{c.at + int32(begun), c.from + int32(begun), int32(end - begun)})
			}
		}
		for i := range a {
			if a[i] != b[i] {
				run++
				continue
			}
			if run >= unlike {
				part(i - run)
				begun = i
			}
			run = 0
		}
		part(len(a) - run)
	}
	return tidy(out)
}

// tidy joins copies that go on, and drops the shortest of too many.
func tidy(list []copied) []copied {
	out := list[:0]
	for _, c := range list {
		if n := len(out); n > 0 && out[n-1].end() == c.at && out[n-1].from-out[n-1].at == c.from-c.at {
			out[n-1].size += c.size
			continue
		}
		out = append(out, c)
	}
	for least := int32(matchShort); len(out) > MaxCopies; least += least / 2 {
		out = slices.DeleteFunc(out, func(c copied) bool { return c.size < least })
	}
	return out
}

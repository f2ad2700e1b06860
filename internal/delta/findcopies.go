package delta

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

// limits are what may be sorted of an old image, in bytes.
type limits struct {
	// whole is up to which length one is sorted as it is; of a longer one what is not
	// in the new image already.
	whole int
	// most is how much is sorted at most: at four and a half bytes of memory each.
	most int
}

var sortLimits = limits{whole: 96 << 20, most: 224 << 20}

// findCopies returns what of the new image resembles which part of the old one.
func findCopies(ctx context.Context, old, new []byte, workers int, limit limits) ([]copied, error) {
	var same []copied
	if len(old) > limit.whole {
		same = identical(old, new)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rest := newRemains(old, same, limit.most)
	sorted, err := newSuffixes(rest.text)
	if err != nil {
		return nil, err
	}
	known := newFilter(rest.text)
	find := func(key []byte, limit int) (int, int) {
		if !known.may(key) {
			return 0, 0
		}
		n, at := sorted.longest(key, limit)
		if n == 0 {
			return 0, 0
		}
		from := rest.offset(int(at))
		if len(same) > 0 { // what follows in the text may be from elsewhere
			n = common(key[:min(len(key), limit)], old[from:])
		}
		return n, from
	}
	gaps := between(same, len(new))
	lists := make([][]copied, len(gaps))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, gap := range gaps {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			m := &matcher{old: old, new: new, find: find}
			lists[i] = m.copies(gap.start, gap.end, gap.start+gap.shift)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	list := slices.Concat(append(lists, same)...)
	slices.SortFunc(list, func(a, b copied) int { return int(a.at) - int(b.at) })
	return tidy(list), nil
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

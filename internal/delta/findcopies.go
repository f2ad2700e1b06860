package delta

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

// findCopies returns what of the new image resembles which part of the old one.
func findCopies(ctx context.Context, old, new []byte, workers int) ([]copied, error) {
	sorted, err := newSuffixes(old)
	if err != nil {
		return nil, err
	}
	find := func(key []byte, limit int) (int, int) {
		n, at := sorted.longest(key, limit)
		return n, int(at)
	}
	lists := make([][]copied, (len(new)+matchPart-1)/matchPart)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := range lists {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			m := &matcher{old: old, new: new, find: find}
			lists[i] = m.copies(i*matchPart, min((i+1)*matchPart, len(new)))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return tidy(slices.Concat(lists...)), nil
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

package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"groundswell/agent/fetch"
	"groundswell/agent/wake"
	"groundswell/internal/block"
	"groundswell/internal/expand"
)

var (
	// errSent: a source sent something wrong.
	errSent = errors.New("wrong bytes")
	// errMixed: what several have sent is wrong, so none of them is to blame.
	errMixed = errors.New("wrong bytes of several")
)

// fetch asks each source once, until the step is done.
func (r *run) fetch(ctx context.Context, s step) error {
	w := r.plan.ways[s.kind]
	sources := r.Client.Sources()
	if len(sources) == 0 {
		return fetch.ErrNoSource
	}
	var failures []error
	asked, answered, wrong := 0, 0, 0
	before := r.kept
	for _, base := range sources {
		if r.strikes[strike{base, s.kind}] >= maxStrikes {
			continue
		}
		asked++
		err := r.from(ctx, base, w, s)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.As(err, new(diskError)) {
			return err
		}
		failures = append(failures, err)
		if !away(err) {
			answered++
		}
		switch {
		case errors.Is(err, fetch.ErrRange) && s.kind == kindFull:
			r.noRanges++
		case errors.Is(err, fetch.ErrRange):
			r.against(base, s.kind)
		case errors.Is(err, fetch.ErrNotFound) && s.kind != kindFull:
			r.strikes[strike{base, s.kind}] = maxStrikes
		case errors.Is(err, errSent):
			if s.kind == kindExpanded && !errors.Is(err, expand.ErrSum) {
				r.Log.Warn("the delta that looks through compression does not make the artifact", "err", err)
				return r.another(ctx, kindExpanded) // it is the same from everybody
			}
			r.against(base, s.kind)
			wrong++
		}
		if r.file.at > s.first {
			return err // another step is next, without what is there; this source may go on with it
		}
	}
	err := errors.Join(failures...)
	// Whoever is away speaks neither for nor against a way, unless all others have it not.
	told := slices.ContainsFunc(failures, telling) || s.kind == kindFull || 0 < asked && asked < len(sources)
	if told && r.kept-before < min(leastGrown, (s.units[0].cost()+15)/16) {
		r.fruitless(s.kind)
	}
	switch {
	case s.kind == kindDelta && wrong > 0 && wrong == answered:
		return r.spoil(ctx, err, wrong == len(sources))
	case s.kind == kindPacked && asked == 0: // as the table says
		return r.another(ctx, kindPacked)
	case s.kind != kindFull && asked == 0:
		r.Log.Warn("a way to the artifact is closed", "way", s.kind)
		return r.leave(ctx, s.kind)
	case asked == 0:
		return fmt.Errorf("%w: no source sends right blocks", fetch.ErrWrongBytes)
	case s.kind == kindFull && (r.noRanges >= maxStrikes || r.noRanges > 0 && r.noRanges == asked):
		return fmt.Errorf("%w: %w", errWhole, err)
	}
	return err
}

// leave closes a way. The plain delta is opened only when the other is not to be had.
func (r *run) leave(ctx context.Context, k kind) error {
	r.shut(k)
	switch k {
	case kindExpanded:
		return r.openWay(ctx, kindDelta, r.openDelta)
	case kindDelta:
		return r.instead(ctx)
	}
	return nil
}

// shut closes a way, and forgets what it was opened by: that may be what is wrong.
func (r *run) shut(k kind) {
	switch w := r.plan.ways[k].(type) {
	case *expanded:
		w.close()
		r.shelf.forgetHead(w.from)
	case *differences:
		r.shelf.forgetHead(w.from)
	case *packed:
		r.shelf.forgetTable()
	}
	delete(r.plan.ways, k)
}

// another leaves a way, unless another source has something else to open it by: nobody has signed
// a head or a table.
func (r *run) another(ctx context.Context, k kind) error {
	if !r.refuse(k) {
		r.Log.Warn("a way to the artifact is closed", "way", k)
		return r.leave(ctx, k)
	}
	r.shut(k)
	r.pardon(k)
	var err error
	switch k {
	case kindPacked:
		r.plan.ways[k] = guessed{r.file.index} // it is opened when it is needed
	case kindDelta:
		err = r.openWay(ctx, k, r.openDelta)
	case kindExpanded:
		err = r.openWay(ctx, k, r.openExpanded)
	}
	if err != nil || r.plan.ways[k] != nil {
		return err
	}
	return r.leave(ctx, k)
}

func (r *run) against(base string, k kind) { r.strikes[strike{base, k}]++ }

// pardon forgets what sources sent by a way.
func (r *run) pardon(k kind) {
	for s := range r.strikes {
		if s.kind == k {
			delete(r.strikes, s)
		}
	}
}

// spoil leaves the segment that is next to the other ways, and the delta when it has
// failed too often by what all sources have, unless another source has another head of it. Whoever
// sent it, or whoever changed what runs, may be at fault.
func (r *run) spoil(ctx context.Context, err error, all bool) error {
	n := segmentAt(r.plan.segments, r.file.at)
	r.Log.Warn("the delta does not make a segment", "segment", n, "err", err)
	r.plan.spoilt[spoiling{kindDelta, n}] = true
	if !all {
		return nil // who is away may have it right
	}
	if r.wrong++; r.wrong < maxStrikes {
		return nil
	}
	r.wrong = 0
	return r.another(ctx, kindDelta)
}

// from fetches a step's units from one source, and adds their blocks one by one.
func (r *run) from(ctx context.Context, base string, w way, s step) error {
	from, to := s.units[0].from, s.units[len(s.units)-1].to
	tag := w.object().Tag
	name := r.pieces(tag, base)
	e := r.early[name]
	there := e.until(from, to)
	body := io.ReadCloser(http.NoBody)
	if from += int64(len(there)); from < to { // a unit may need nothing but what was kept
		var err error
		if body, err = r.Client.Range(ctx, base, w.object(), from, to); err != nil {
			return err
		}
	}
	defer body.Close()
	if len(there) > 0 { // for once: if it is wrong, others are fetched
		r.early[name] = e.behind(from)
	}
	had := int64(len(there)) // which was counted
	all := io.MultiReader(bytes.NewReader(there), body)
	for i, u := range s.units {
		if ctx.Err() != nil {
			return ctx.Err() // whatever the network has brought by now
		}
		if left, limited := r.Client.Left(); i > 0 && limited && left == 0 {
			return wake.ErrSpent // by the clock, or by others
		}
		data := r.room(u.cost())
		n, err := io.ReadFull(all, data)
		counted := min(had, int64(n))
		had -= counted
		r.count(s.kind, int64(n)-counted)
		sender := base
		if u.from < from && e.by != base {
			sender = several
		}
		if err != nil {
			r.interrupted(tag, name, early{u.from, bytes.Clone(data[:n]), sender}, int64(n)-counted)
			return err
		}
		out, err := w.decode(u, data)
		if err != nil {
			err = fmt.Errorf("%w: %w", errSent, err)
		} else {
			err = errors.Join(r.add(u, out), r.file.sync())
		}
		if errors.Is(err, errSent) && sender == several {
			r.apart[tag], r.unfinished = true, tag
			return fmt.Errorf("%w: %v", errMixed, err)
		}
		if err != nil {
			return err
		}
		r.forgive(strike{base, s.kind})
		r.progressed()
	}
	return nil
}

// interrupted keeps what there is of a unit under a name, of which so many bytes came just now.
func (r *run) interrupted(tag, name string, e early, came int64) {
	if len(e.data) == 0 {
		return
	}
	r.early[name], r.unfinished = e, tag
	r.kept += came
}

// forgiven is how many right units make good for a wrong one: a link that flips a bit
// now and then is not hostile.
const forgiven = 32

func (r *run) forgive(s strike) {
	if r.strikes[s] == 0 {
		return
	}
	if r.good[s]++; r.good[s] >= forgiven {
		r.good[s] = 0
		r.strikes[s]--
	}
}

// add checks a unit's blocks and appends those that are not there yet.
func (r *run) add(u unit, out []byte) error {
	start := r.file.index.Blocks[u.first].Offset
	for i := u.first; i < u.end; i++ {
		b := r.file.index.Blocks[i]
		from, to := b.Offset-start, b.Offset-start+int64(b.Length)
		if to > int64(len(out)) {
			return fmt.Errorf("%w: %w: %d bytes", errSent, block.ErrWrong, len(out))
		}
		if i < r.file.at {
			continue
		}
		if err := b.Check(out[from:to]); err != nil {
			return fmt.Errorf("%w: %w", errSent, err)
		}
		if err := r.file.add(out[from:to]); err != nil {
			return err
		}
	}
	return nil
}

package assemble

import (
	"context"
	"errors"
	"fmt"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
	"groundswell/topics"
)

// open finds out what is there. By which ways the rest can be had is found out when
// something has to be fetched from the origin.
func (r *run) open(ctx context.Context) error {
	index := r.file.index
	var err error
	if r.seed, err = openSeed(ctx, &r.running, index); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.Log.Warn("what runs is no source of blocks", "err", err)
	}
	r.plan = &plan{
		index: index, segments: segmentsOf(index), local: r.seed.has, spoilt: map[spoiling]bool{},
		ways: map[kind]way{kindFull: full{r.wanted.SHA256, index}},
		peer: r.share.Has, stretch: r.stretch,
	}
	return nil
}

// openWays finds out by which ways the artifact can be had. Only the full one must be.
// errNews ends it for now.
func (r *run) openWays(ctx context.Context) error {
	r.plan.ways[kindPacked] = guessed{r.file.index}
	if r.Battery != nil && r.Battery() {
		r.plan.energy = &r.Energy
	}
	if err := r.openDeltas(ctx); err != nil {
		return err
	}
	r.opened = true
	return nil
}

// openWay opens one if it can be had. Its error is that of ctx, or errNews.
func (r *run) openWay(ctx context.Context, k kind, open func(context.Context) (way, error)) error {
	w, err := r.insist(ctx, !r.opened || k == kindPacked, open)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errNews):
		return err
	case err != nil:
		r.Log.Info("a way to the artifact is not open", "way", k, "err", err)
		delete(r.plan.ways, k)
		if !lasting(err) {
			r.missed[k] = missing{r.missed[k].times + 1, true}
		}
	case w != nil:
		r.plan.ways[k] = w
	}
	return nil
}

// errNews: a peer has the next block meanwhile.
var errNews = errors.New("a peer has it now")

// insist tries again while it is only the network that fails: without a way that is
// there many more bytes would be fetched. If it can be opened later, errNews ends it.
func (r *run) insist(ctx context.Context, later bool, open func(context.Context) (way, error)) (way, error) {
	for round := 1; ; round++ {
		w, err := open(ctx)
		if err == nil || lasting(err) || round > patience || ctx.Err() != nil {
			return w, err
		}
		r.Log.Warn("a way to the artifact cannot be opened yet", "round", round, "err", err)
		r.wanted.Interrupted(err)
		switch told, err := r.rest(ctx, round); {
		case err != nil:
			return nil, err
		case told && later:
			return nil, errNews
		}
	}
}

// lasting is whether an error is about what sources have, and not about whether they
// can be reached.
func lasting(err error) bool {
	for _, known := range []error{
		fetch.ErrNotFound, fetch.ErrTooLarge, fetch.ErrEncoding, fetch.ErrRange, fetch.ErrNoSource,
		block.ErrPacked, errHead, delta.ErrCorrupt, delta.ErrTruncated, delta.ErrTooLarge, delta.ErrVersion,
		delta.ErrOffset, errRoom, expand.ErrCorrupt, expand.ErrTruncated, expand.ErrTooLarge, expand.ErrVersion,
		expand.ErrOffset,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return errors.As(err, new(*topics.FieldError))
}

func (r *run) openPacked(ctx context.Context) (way, error) {
	var table block.Table
	raw, fetched, err := r.shelf.table(ctx, r.wanted.SHA256, block.MaxTable(r.file.index), func(data []byte) (err error) {
		if r.refused[digestOf(data)] {
			return fmt.Errorf("%w: it was of no use", block.ErrPacked)
		}
		table, err = block.ReadTable(data, r.file.index)
		return err
	})
	r.transfer.Index += fetched
	if err != nil {
		return nil, err
	}
	if r.unpacker == nil {
		if r.unpacker, err = block.NewUnpacker(); err != nil {
			return nil, err
		}
	}
	tag := digestOf(raw)
	r.by[kindPacked] = tag
	o := fetch.Object{Path: "packs/" + r.wanted.SHA256 + "/" + tag, Tag: tag, Length: table.Length()}
	return &packed{from: o, index: r.file.index, table: table, unpacker: r.unpacker}, nil
}

// deltas are what the delta index lists of those from what runs; nil: nothing.
func (r *run) deltas(ctx context.Context) (plain, through *topics.Document, err error) {
	if r.wanted.Deltas == nil || r.seed == nil {
		return nil, nil, nil
	}
	raw, fetched, err := r.shelf.document(ctx, *r.wanted.Deltas)
	r.transfer.Index += fetched
	if err != nil {
		return nil, nil, err
	}
	list, err := topics.DecodeDeltaIndex(raw)
	if err != nil {
		return nil, nil, err
	}
	if list.Artifact != r.wanted.SHA256 {
		return nil, nil, fmt.Errorf("%w: the delta index is of %.16s", errHead, list.Artifact)
	}
	return listed(list.Deltas, r.seed.SHA256), listed(list.Expanded, r.seed.SHA256), nil
}

func listed(list []topics.Delta, sha256 string) *topics.Document {
	for _, d := range list {
		if d.From == sha256 {
			return &d.Document
		}
	}
	return nil
}

func named(d topics.Document) fetch.Object {
	return fetch.Object{Path: "artifacts/" + d.SHA256, Tag: d.SHA256, Length: d.Length}
}

func (r *run) openDelta(ctx context.Context) (way, error) {
	d, _, err := r.deltas(ctx)
	if d == nil {
		return nil, err
	}
	o := named(*d)
	var w way
	r.by[kindDelta], err = r.head(ctx, o, delta.MaxHead+int64(delta.HeadBegin), delta.HeadLength, func(raw []byte) (err error) {
		w, err = newDifferences(raw, o, r.seed, r.file.index, r.plan.segments)
		return err
	})
	return w, err
}

func (r *run) openExpanded(ctx context.Context) (way, error) {
	plain, d, err := r.deltas(ctx)
	if d == nil {
		return nil, err
	}
	o := named(*d)
	var w way
	r.by[kindExpanded], err = r.head(ctx, o, expand.MaxHead+int64(expand.HeadBegin), expand.HeadLength, func(raw []byte) (err error) {
		w, err = r.newExpanded(raw, o, plain)
		return err
	})
	return w, err
}

package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// running is what the device runs, which is cut into its blocks once: they say what its block
// index was, that the next one comes as a delta from, and which blocks it has.
type running struct {
	*fetch.Seed // nil: it is not known
	index       *block.Index
}

// cut is the block index of data, which is what runs, by blocks of that normal size. It is all
// read, which costs no bytes on the radio.
func (r *running) cut(ctx context.Context, data io.ReaderAt, normal int) (block.Index, error) {
	if r.index != nil && r.index.Normal == normal {
		return *r.index, nil
	}
	x := block.Index{Length: r.Length, Normal: normal}
	err := block.Cut(ctx, io.NewSectionReader(data, 0, r.Length), normal, func(b block.Block, _ []byte) error {
		x.Blocks = append(x.Blocks, b)
		return nil
	})
	if err != nil {
		return block.Index{}, fmt.Errorf("read what runs: %w", err)
	}
	r.index = &x
	return x, nil
}

// deltaPatience is how long the answer may take: the index itself is to be had as well.
const deltaPatience = 10 * time.Second

// indexDocument is the block index as it is there, as a delta makes it from that of what runs,
// or as it is stored.
func (r *run) indexDocument(ctx context.Context) ([]byte, error) {
	want := *r.wanted.Index
	if raw := r.shelf.kept(want); raw != nil {
		return raw, nil
	}
	if r.running.Seed != nil && want.Length >= block.LeastDelta && !r.shelf.askedForIndex() {
		raw, err := r.indexByDelta(ctx)
		if err == nil {
			r.shelf.keep(want, raw)
			return raw, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, fetch.ErrNotFound) {
			r.Log.Info("the block index does not come as a delta", "artifact", r.wanted.SHA256, "err", err)
		}
	}
	raw, fetched, err := r.shelf.document(ctx, want)
	r.transfer.Index += fetched
	return raw, err
}

// indexByDelta is the block index, which has the digest that was signed whatever was sent.
func (r *run) indexByDelta(ctx context.Context) (index []byte, err error) {
	data, err := r.running.Open()
	if err != nil {
		return nil, fmt.Errorf("open what runs: %w", err)
	}
	x, err := r.running.cut(ctx, data, block.Normal(r.running.Length))
	if err = errors.Join(err, data.Close()); err != nil {
		return nil, err
	}
	// Once, whatever comes of it, also of a wake that ends meanwhile.
	r.shelf.askForIndex()
	within, cancel := context.WithTimeout(ctx, deltaPatience)
	defer cancel()
	old, want := x.Bytes(), *r.wanted.Index
	err = r.Client.IndexDelta(within, want.SHA256, digestOf(old), want.Length-1, func(raw []byte) (err error) {
		r.transfer.Index += int64(len(raw))
		index, err = indexOfDelta(raw, old, want)
		return err
	})
	return index, err
}

// indexOfDelta is what a delta makes of an index, if it is the one that is wanted.
func indexOfDelta(raw, old []byte, want topics.Document) (out []byte, err error) {
	err = guarded(func() (err error) {
		out, err = delta.Patch(raw, old, want.Length)
		return err
	})
	if err == nil && digestOf(out) != want.SHA256 {
		err = fmt.Errorf("%w: a delta that does not make the block index", fetch.ErrWrongBytes)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

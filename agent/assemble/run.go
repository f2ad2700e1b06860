package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"groundswell/agent/fetch"
	"groundswell/agent/wake"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// maxStrikes is how often a source may send something wrong by a way before it is not
// asked for that any more, and how many segments a delta may not make before it is left.
const maxStrikes = 3

// strike is what a source is held against for.
type strike struct {
	base string
	kind kind
}

// run makes one file.
type run struct {
	Downloads
	shelf    shelf
	wanted   fetch.Artifact
	file     *file
	began    int // blocks that were there
	seed     *seed
	plan     *plan
	unpacker *block.Unpacker
	transfer *topics.Transfer
	tell     func(int64, topics.Transfer)
	strikes  map[strike]int
	good     map[strike]int       // units since the last strike was forgiven
	noRanges int                  // answers without the range that was asked for
	busy     map[string]time.Time // until when a source wants to be left alone
	buffer   []byte               // of a unit
}

func (r *run) all(ctx context.Context) error {
	if r.file.done() {
		return nil
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	for round := 0; !r.file.done(); {
		before := r.file.at
		err := r.step(ctx)
		switch {
		case err == nil:
			round = 0
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, wake.ErrSpent), errors.Is(err, fetch.ErrWrongBytes), errors.Is(err, errWhole), errors.As(err, new(diskError)):
			return err
		}
		if r.file.at > before {
			round = 0
		}
		round++
		r.Log.Warn("download interrupted", "have", r.file.have(), "of", r.wanted.Length, "round", round, "err", err)
		if err := r.pause(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

// open finds out by which ways the artifact can be had. Only the full one must be.
func (r *run) open(ctx context.Context) error {
	index := r.file.index
	var err error
	if r.seed, err = openSeed(ctx, r.wanted.Seed, index); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.Log.Warn("what runs is no source of blocks", "err", err)
	}
	r.plan = &plan{
		index: index, segments: segmentsOf(index), local: r.seed.has, spoilt: map[int]bool{},
		ways: map[kind]way{kindFull: full{r.wanted.SHA256, index}},
	}
	for _, open := range []struct {
		kind kind
		way  func(context.Context) (way, error)
	}{{kindPacked, r.openPacked}, {kindDelta, r.openDelta}} {
		w, err := r.insist(ctx, open.way)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.Log.Info("a way to the artifact is not open", "way", open.kind, "err", err)
		case w != nil:
			r.plan.ways[open.kind] = w
		}
	}
	return nil
}

// insist tries again while it is only the network that fails: without a way that is
// there many more bytes would be fetched.
func (r *run) insist(ctx context.Context, open func(context.Context) (way, error)) (way, error) {
	for round := 1; ; round++ {
		w, err := open(ctx)
		if err == nil || lasting(err) || round > patience || ctx.Err() != nil {
			return w, err
		}
		r.Log.Warn("a way to the artifact cannot be opened yet", "round", round, "err", err)
		if err := r.Client.Pause(ctx, round); err != nil {
			return nil, err
		}
	}
}

// lasting is whether an error is about what sources have, and not about whether they
// can be reached.
func lasting(err error) bool {
	for _, known := range []error{
		fetch.ErrNotFound, fetch.ErrTooLarge, fetch.ErrEncoding, fetch.ErrWrongBytes, fetch.ErrRange, fetch.ErrNoSource,
		block.ErrPacked, errHead, delta.ErrCorrupt, delta.ErrTruncated, delta.ErrTooLarge, delta.ErrVersion,
		delta.ErrOffset,
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
		table, err = block.ReadTable(data, r.file.index)
		return err
	})
	r.transfer.Index += fetched
	if err != nil {
		return nil, err
	}
	if r.unpacker, err = block.NewUnpacker(); err != nil {
		return nil, err
	}
	tag := digestOf(raw)
	o := fetch.Object{Path: "packs/" + r.wanted.SHA256 + "/" + tag, Tag: tag, Length: table.Length()}
	return &packed{from: o, index: r.file.index, table: table, unpacker: r.unpacker}, nil
}

func (r *run) openDelta(ctx context.Context) (way, error) {
	if r.wanted.Deltas == nil || r.seed == nil {
		return nil, nil
	}
	raw, fetched, err := r.shelf.document(ctx, *r.wanted.Deltas)
	r.transfer.Index += fetched
	if err != nil {
		return nil, err
	}
	list, err := topics.DecodeDeltaIndex(raw)
	if err != nil {
		return nil, err
	}
	if list.Artifact != r.wanted.SHA256 {
		return nil, fmt.Errorf("%w: the delta index is of %.16s", errHead, list.Artifact)
	}
	for _, d := range list.Deltas {
		if d.From != r.seed.SHA256 {
			continue
		}
		o := fetch.Object{Path: "artifacts/" + d.SHA256, Tag: d.SHA256, Length: d.Length}
		raw, err := r.head(ctx, o)
		if err != nil {
			return nil, err
		}
		w, err := newDifferences(raw, o, r.seed, r.file.index, r.plan.segments)
		if err != nil {
			r.shelf.forgetHead(o)
			return nil, err
		}
		return w, nil
	}
	return nil, nil
}

// headGuess is how much of a delta is fetched to learn how long its head is.
const headGuess = 4 << 10

// head is the head of a delta, from the shelf or from whoever has it.
func (r *run) head(ctx context.Context, o fetch.Object) ([]byte, error) {
	if raw := r.shelf.read(r.shelf.headPath(o), delta.MaxHead+int64(delta.HeadBegin)); raw != nil {
		return raw, nil
	}
	raw, err := r.part(ctx, o, 0, min(o.Length, headGuess))
	if err != nil {
		return nil, err
	}
	n, err := delta.HeadLength(raw)
	if err == nil && n > o.Length {
		err = fmt.Errorf("%w: its head has %d bytes of %d", delta.ErrTruncated, n, o.Length)
	}
	if err != nil {
		return nil, err
	}
	if n > int64(len(raw)) {
		rest, err := r.part(ctx, o, int64(len(raw)), n)
		if err != nil {
			return nil, err
		}
		raw = append(raw, rest...)
	}
	r.shelf.write(r.shelf.headPath(o), raw[:n])
	return raw[:n], nil
}

// part fetches the bytes [from, to) of a delta from whoever has them.
func (r *run) part(ctx context.Context, o fetch.Object, from, to int64) ([]byte, error) {
	var failures []error
	for _, base := range r.Client.Sources() {
		body, err := r.Client.Range(ctx, base, o, from, to)
		if err == nil {
			// It grows with what arrives.
			var raw bytes.Buffer
			_, err = io.CopyN(&raw, body, to-from)
			body.Close()
			r.transfer.Delta += int64(raw.Len())
			if err == nil {
				return raw.Bytes(), nil
			}
		}
		failures = append(failures, err)
	}
	if len(failures) == 0 {
		return nil, fetch.ErrNoSource
	}
	return nil, errors.Join(failures...)
}

// step brings what the plan says is next. It returns nil when that is there, or when
// the plan has to be made anew.
func (r *run) step(ctx context.Context) error {
	left, limited := r.Client.Left()
	limit := left
	if limited {
		limit = max(1, left)
	}
	s := r.plan.next(r.file.at, limit)
	if s.kind == kindLocal {
		return r.copy(ctx, s)
	}
	// What is small may be all that a wake has: it brings one unit in any case.
	if limited && left < s.units[0].cost() && r.file.at > r.began {
		return wake.ErrSpent
	}
	return r.fetch(ctx, s)
}

func (r *run) copy(ctx context.Context, s step) error {
	for i := s.first; i < s.end; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := r.file.index.Blocks[i]
		buffer := r.room(int64(b.Length))
		if !r.seed.read(b, buffer) {
			return nil // it is missing: the plan is another one
		}
		if err := r.file.add(buffer); err != nil {
			return err
		}
		r.transfer.Local += int64(b.Length)
		r.told()
	}
	return nil
}

func (r *run) told() {
	if r.tell != nil {
		r.tell(r.file.have(), *r.transfer)
	}
}

func (r *run) room(n int64) []byte {
	if int64(cap(r.buffer)) < n {
		r.buffer = make([]byte, n)
	}
	return r.buffer[:n]
}

// errSent: a source sent something wrong.
var errSent = errors.New("wrong bytes")

// fetch asks each source once, until the step is done.
func (r *run) fetch(ctx context.Context, s step) error {
	w := r.plan.ways[s.kind]
	sources := r.Client.Sources()
	if len(sources) == 0 {
		return fetch.ErrNoSource
	}
	var failures []error
	asked := 0
	for _, base := range sources {
		if r.strikes[strike{base, s.kind}] >= maxStrikes {
			continue
		}
		asked++
		if time.Now().Before(r.busy[base]) {
			failures = append(failures, fetch.Busy{Host: base, After: time.Until(r.busy[base])})
			continue
		}
		err := r.from(ctx, base, w, s)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || errors.As(err, new(diskError)) {
			return err
		}
		failures = append(failures, err)
		var busy fetch.Busy
		switch {
		case errors.As(err, &busy) && busy.After > 0:
			if r.busy == nil {
				r.busy = map[string]time.Time{}
			}
			r.busy[base] = time.Now().Add(busy.After)
		case errors.Is(err, fetch.ErrRange) && s.kind == kindFull:
			r.noRanges++
		case errors.Is(err, fetch.ErrRange):
			r.against(base, s.kind)
		case errors.Is(err, fetch.ErrNotFound) && s.kind != kindFull:
			r.strikes[strike{base, s.kind}] = maxStrikes
		case errors.Is(err, errSent):
			if s.kind == kindDelta {
				return r.spoil(err)
			}
			r.against(base, s.kind)
		}
		if r.file.at > s.first {
			return err // another step is next; this source may go on with it
		}
	}
	err := errors.Join(failures...)
	switch {
	case s.kind != kindFull && asked == 0:
		r.Log.Warn("a way to the artifact is closed", "way", s.kind)
		if s.kind == kindPacked {
			r.shelf.forgetTable() // it may be that which is wrong
		}
		delete(r.plan.ways, s.kind)
		return nil
	case asked == 0:
		return fmt.Errorf("%w: no source sends right blocks", fetch.ErrWrongBytes)
	case r.noRanges >= maxStrikes || r.noRanges > 0 && r.noRanges == asked:
		return fmt.Errorf("%w: %w", errWhole, err)
	}
	return err
}

func (r *run) against(base string, k kind) { r.strikes[strike{base, k}]++ }

// spoil leaves the segment that is next to the other ways, and the delta when it has
// failed too often. Whoever sent it, or whoever changed what runs, may be at fault.
func (r *run) spoil(err error) error {
	n := segmentAt(r.plan.segments, r.file.at)
	r.Log.Warn("the delta does not make a segment", "segment", n, "err", err)
	if r.plan.spoilt[n] = true; len(r.plan.spoilt) >= maxStrikes {
		delete(r.plan.ways, kindDelta)
	}
	return nil
}

// from fetches a step's units from one source, and adds their blocks one by one.
func (r *run) from(ctx context.Context, base string, w way, s step) error {
	units := s.units
	for len(units) > 0 && units[0].end <= r.file.at { // another source sent them
		units = units[1:]
	}
	body, err := r.Client.Range(ctx, base, w.object(), units[0].from, units[len(units)-1].to)
	if err != nil {
		return err
	}
	defer body.Close()
	for _, u := range units {
		data := r.room(u.cost())
		n, err := io.ReadFull(body, data)
		r.count(s.kind, int64(n))
		if err != nil {
			return err
		}
		out, err := w.decode(u, data)
		if err != nil {
			return fmt.Errorf("%w: %w", errSent, err)
		}
		if err := errors.Join(r.add(u, out), r.file.sync()); err != nil {
			return err
		}
		r.forgive(strike{base, s.kind})
		r.told()
	}
	return nil
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

func (r *run) count(k kind, n int64) {
	switch k {
	case kindDelta:
		r.transfer.Delta += n
	case kindPacked:
		r.transfer.Packed += n
	case kindFull:
		r.transfer.Full += n
	}
}

// pause waits before the next round over the sources, and for as long as all of them
// want to be left alone.
func (r *run) pause(ctx context.Context, round int) error {
	var first time.Time
	for _, base := range r.Client.Sources() {
		until := r.busy[base]
		if !time.Now().Before(until) {
			first = time.Time{}
			break
		}
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	if wait := time.Until(first); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	return r.Client.Pause(ctx, round)
}

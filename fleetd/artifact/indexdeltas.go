package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"groundswell/internal/block"
	"groundswell/internal/delta"
)

// ErrNoIndexDelta: there is no delta between the two and never will be, because one of them
// is no block index or too large, or because a delta saves too little.
var ErrNoIndexDelta = errors.New("no delta between these")

// errManyIndexDeltas: so many wait for theirs that another one is better off without.
var errManyIndexDeltas = errors.New("too many deltas between indexes are asked for")

const (
	// waitingIndexDeltas is how many may wait, of whom one is served.
	waitingIndexDeltas = 16
	// maxIndexDelta is the largest block index that deltas are made of, in bytes: 30,000
	// blocks.
	maxIndexDelta = 1 << 20
	// indexDeltaMemory is what one takes to make besides the indexes, in bytes, as package
	// delta counts: it sorts all of the old one.
	indexDeltaMemory = 8 * maxIndexDelta
	// maxIndexDeltas is how many bytes of them are remembered.
	maxIndexDeltas = 4 << 20
	// indexDeltaCost is what it takes to remember one besides its bytes.
	indexDeltaCost = 512
)

// IndexDeltas makes deltas (internal/delta) between block indexes, for devices that know
// the index of what they run: where little has changed, that is a tenth of the bytes of the
// new one. Nothing is stored: they are made for who asks, one at a time while others wait,
// and remembered, with what was not worth it, as long as there is room. The same indexes
// make the same bytes, so replicas agree. It is safe for concurrent use.
type IndexDeltas struct {
	blobs *Blobs
	queue chan struct{} // of those who wait
	turn  chan struct{} // full while one is made

	mu    sync.Mutex // guards what follows
	known map[indexPair]*indexDelta
	order []indexPair // of known, the oldest first
	bytes int         // that they cost
}

// indexPair is what a delta is between, by SHA-256.
type indexPair struct{ new, old string }

// indexDelta is a delta.
type indexDelta struct {
	raw    []byte // nil: there is none, for ever
	digest string // its SHA-256 in lower-case hex
}

func (d *indexDelta) cost() int { return len(d.raw) + indexDeltaCost }

// NewIndexDeltas makes them of indexes that lie where the artifacts are.
func NewIndexDeltas(blobs *Blobs) *IndexDeltas {
	return &IndexDeltas{
		blobs: blobs, queue: make(chan struct{}, waitingIndexDeltas), turn: make(chan struct{}, 1), known: map[indexPair]*indexDelta{},
	}
}

// Length is how many bytes the delta has from the index with digest old to that with digest
// new. ErrNoIndexDelta; ErrNoArtifact when one of them is not stored; ErrName.
func (x *IndexDeltas) Length(ctx context.Context, new, old string) (int64, error) {
	d, err := x.get(ctx, new, old)
	if err != nil {
		return 0, err
	}
	return int64(len(d.raw)), nil
}

// get is the delta, made if need be; its errors are those of Length.
func (x *IndexDeltas) get(ctx context.Context, new, old string) (*indexDelta, error) {
	pair := indexPair{new, old}
	d := x.recall(pair)
	if d == nil {
		var err error
		if d, err = x.wait(ctx, pair); err != nil {
			return nil, err
		}
	}
	if d.raw == nil {
		return nil, fmt.Errorf("%w: %s from %s", ErrNoIndexDelta, new, old)
	}
	return d, nil
}

// wait makes a delta when it is its turn, unless somebody else has made it by then. What is
// missing or too large, and a bucket that is away, nobody waits for.
func (x *IndexDeltas) wait(ctx context.Context, pair indexPair) (*indexDelta, error) {
	var indexes [2]*Reader // old, new
	for i, sha256 := range []string{pair.old, pair.new} {
		r, err := x.blobs.Open(ctx, sha256)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if r.Size() > maxIndexDelta {
			return nil, fmt.Errorf("%w: %s has %d bytes", ErrNoIndexDelta, sha256, r.Size())
		}
		indexes[i] = r
	}
	select {
	case x.queue <- struct{}{}:
		defer func() { <-x.queue }()
	default:
		return nil, errManyIndexDeltas
	}
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d := x.recall(pair); d != nil {
		return d, nil
	}
	d, err := makeIndexDelta(ctx, indexes[0], indexes[1])
	if err != nil {
		return nil, fmt.Errorf("make a delta from index %s to %s: %w", pair.old, pair.new, err)
	}
	x.remember(pair, d)
	return d, nil
}

// makeIndexDelta makes one that is shorter than three quarters of the new index, or none.
func makeIndexDelta(ctx context.Context, from, to io.Reader) (*indexDelta, error) {
	var images [2][]byte
	var indexes [2]block.Index
	for i, r := range []io.Reader{from, to} {
		var err error
		if images[i], err = io.ReadAll(r); err != nil {
			return nil, err
		}
		if indexes[i], err = block.ReadAny(images[i]); err != nil {
			return &indexDelta{}, nil
		}
	}
	old, new := images[0], images[1]
	if len(new) < block.LeastDelta || others(indexes[1], indexes[0])*sha256.Size >= len(new)*3/4 {
		return &indexDelta{}, nil // which takes no time to find out
	}
	var out bytes.Buffer
	options := delta.Options{Coder: delta.Zstd, Workers: 1, Memory: delta.LeastMemory(1) + indexDeltaMemory}
	if err := delta.Encode(ctx, &out, old, new, options); err != nil {
		return nil, err
	}
	if out.Len() >= len(new)*3/4 {
		return &indexDelta{}, nil
	}
	sum := sha256.Sum256(out.Bytes())
	return &indexDelta{bytes.Clone(out.Bytes()), hex.EncodeToString(sum[:])}, nil
}

// others is how many blocks of x y has not: their digests are bytes of any delta.
func others(x, y block.Index) (n int) {
	there := make(map[[sha256.Size]byte]bool, len(y.Blocks))
	for _, b := range y.Blocks {
		there[b.SHA256] = true
	}
	for _, b := range x.Blocks {
		if !there[b.SHA256] {
			n++
		}
	}
	return n
}

// recall is what is remembered of a pair; nil: nothing.
func (x *IndexDeltas) recall(pair indexPair) *indexDelta {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.known[pair]
}

// remember takes what recall does not know, and forgets the oldest where there is no room.
func (x *IndexDeltas) remember(pair indexPair, d *indexDelta) {
	// They may be parts of a request line, of which nothing else is to stay.
	pair = indexPair{strings.Clone(pair.new), strings.Clone(pair.old)}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.known[pair] = d
	x.order = append(x.order, pair)
	for x.bytes += d.cost(); x.bytes > maxIndexDeltas; x.order = x.order[1:] {
		x.bytes -= x.known[x.order[0]].cost()
		delete(x.known, x.order[0])
	}
}

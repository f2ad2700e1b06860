package assemble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/wake"
	"groundswell/internal/block"
	"groundswell/topics"
)

// Downloads makes artifacts' files.
type Downloads struct {
	Client *fetch.Client
	// Peers are asked before any source is; nil: there are none.
	Peers *peers.Site
	// Again is about how long it takes until peers are asked again what they have while no
	// source can be asked. Default 1 min.
	Again time.Duration
	Log   *slog.Logger
	// Battery says whether the device runs on its battery, so that Energy is to be weighed
	// and not bytes alone, and one that sleeps between its wakes asks no peers. Nil: it never
	// does, but who sleeps asks no peers all the same.
	Battery func() bool
	Energy  Energy
	// Free says how many bytes the file system of a folder has left. Nil: as the kernel
	// says.
	Free func(dir string) (int64, error)
}

// Pause is fetch.Client's.
func (d Downloads) Pause(ctx context.Context, n int) error { return d.Client.Pause(ctx, n) }

// Artifact brings an artifact into the file at path, going on with what is there, as
// fetch.Client.Artifact does and with its errors, but block by block where the release
// has an index. tell, if not nil, gets the bytes of the artifact that are there and where
// those of this call came from, after each block.
func (d Downloads) Artifact(ctx context.Context, a fetch.Artifact, path string, tell func(have int64, t topics.Transfer)) error {
	var t topics.Transfer
	if a.Index != nil {
		switch err := d.assemble(ctx, a, path, &t, tell, nil); {
		case err == nil:
		case errors.Is(err, errWhole):
			d.Log.Warn("the artifact is fetched as a whole", "artifact", a.SHA256, "err", err)
		default:
			return fmt.Errorf("download: %w", err)
		}
	}
	// What was assembled is checked once more by the artifact's own digest. That is also
	// all for an artifact without an index, and the last resort of the others.
	before := int64(0)
	if info, err := os.Stat(path); err == nil {
		before = info.Size()
	}
	a.Skipped = func(n int64) { t.Full += n }
	return d.Client.Artifact(ctx, a, path, func(have int64) {
		t.Full += max(0, have-before)
		before = have
		if tell != nil {
			tell(have, t)
		}
	})
}

// errWhole: blocks cannot be had, for a reason that the whole may not have.
var errWhole = errors.New("not by blocks")

// assemble brings the artifact. patient is Nearby.Artifact's; nil: sources are asked as well.
func (d Downloads) assemble(ctx context.Context, a fetch.Artifact, path string, t *topics.Transfer, tell func(int64, topics.Transfer), patient func() bool) error {
	r := newRun(d, a, path, t)
	r.patient, r.tell = patient, tell
	if left, limited := d.Client.Left(); limited && left == 0 && !r.follows() {
		return wake.ErrSpent
	}
	r.running.Seed = a.Seed
	bring := r.blockIndex
	if r.follows() {
		bring = r.indexOfPeers
	}
	index, err := bring(ctx)
	if err != nil {
		return err
	}
	defer func() { r.share.Leave() }()
	if r.follows() && !r.follow(ctx, index) {
		return wake.ErrSpent // before what is there, and what runs, is read for nothing
	}
	f, err := openFile(path, index)
	if err != nil {
		return err
	}
	r.file, r.began = f, f.at
	r.join()
	r.resume()
	err = r.all(ctx)
	if r.suspend(); *t != r.told { // also of what makes no block yet
		r.account()
	}
	r.close()
	r.seed.close()
	if r.unpacker != nil {
		r.unpacker.Close()
	}
	return errors.Join(err, f.close())
}

// blockIndex fetches the index until a source or a peer has it. What has the digest that the
// release role signed and is no index, or is missing everywhere, is no reason to do
// without the artifact.
func (r *run) blockIndex(ctx context.Context) (block.Index, error) {
	a := r.wanted
	for round := 0; ; round++ {
		raw, err := r.indexDocument(ctx)
		if err == nil {
			return readIndex(raw, a)
		}
		if ctx.Err() != nil {
			return block.Index{}, ctx.Err()
		}
		var index block.Index
		var errPeers error
		ask := func(ctx context.Context) (had bool) {
			index, errPeers = r.indexOfPeers(ctx)
			return !errors.Is(errPeers, wake.ErrSpent)
		}
		if ask(ctx) {
			return index, errPeers
		}
		if errors.Is(err, fetch.ErrNotFound) || round >= patience {
			return block.Index{}, fmt.Errorf("%w: block index: %w", errWhole, err)
		}
		r.Log.Warn("block index cannot be had yet", "artifact", a.SHA256, "round", round, "err", err)
		a.Interrupted(err)
		switch told, err := r.Downloads.rest(ctx, a.SHA256, round+1, ask); {
		case err != nil:
			return block.Index{}, err
		case told:
			return index, errPeers
		}
	}
}

func readIndex(raw []byte, a fetch.Artifact) (block.Index, error) {
	index, err := block.Read(raw, a.Length)
	if err != nil {
		return index, fmt.Errorf("%w: %w", errWhole, err)
	}
	return index, nil
}

// patience is how many rounds the block index may be refused before it is done without.
const patience = 5

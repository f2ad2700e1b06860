package assemble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"groundswell/agent/disk"
	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/slot"
	"groundswell/agent/wake"
	"groundswell/internal/block"
	"groundswell/topics"
)

// Nearby is what the other devices of the site have. No source is asked for any of it. It is
// safe for concurrent use.
type Nearby struct {
	Downloads Downloads
	// wrong are the artifacts, by digest, whose blocks by that index make another one.
	wrong sync.Map // string to topics.Document
}

// Near reports whether somebody may have something of an artifact (lower-case hex). Nobody
// is asked by who sleeps between wakes and is not plugged in, nor where the link costs by the
// byte.
func (n *Nearby) Near(artifact string) bool { return n.Downloads.near(artifact) }

// Document brings a document about an artifact, by its digest; peers.ErrNobody when nobody
// has it.
func (n *Nearby) Document(ctx context.Context, artifact string, doc topics.Document) ([]byte, error) {
	return n.Downloads.documentOfPeers(ctx, artifact, doc)
}

// Faults is what the others did wrong since it was called last, also while sources were asked
// as well.
func (n *Nearby) Faults() topics.PeerFaults { return n.Downloads.Peers.Faults() }

// Artifact brings as much of an artifact into the file at path as the others have, or fetch
// meanwhile, with its block index. It returns nil when the file is complete and verified,
// wake.ErrSpent when nobody brings the rest, and otherwise as Downloads.Artifact does, whose
// tell is the same. Nobody is waited for once patient, if not nil, says false; it is asked
// about every second then. Where the blocks make another artifact than they should, that is
// wake.ErrSpent and fetch.ErrAnother: the file stays for Downloads.Artifact to judge, and nobody is asked
// again for blocks by that index.
func (n *Nearby) Artifact(ctx context.Context, a fetch.Artifact, path string, patient func() bool, tell func(have int64, t topics.Transfer)) error {
	if a.Index == nil || !n.Near(a.SHA256) {
		return wake.ErrSpent
	}
	if index, ok := n.wrong.Load(a.SHA256); ok && index == *a.Index {
		return fmt.Errorf("%w: %w", wake.ErrSpent, fetch.ErrAnother)
	}
	var t topics.Transfer
	if patient == nil {
		patient = func() bool { return true }
	}
	err := n.Downloads.assemble(ctx, a, path, &t, tell, patient)
	if errors.Is(err, errWhole) {
		return fmt.Errorf("%w: %w", wake.ErrSpent, err)
	}
	if err != nil {
		return fmt.Errorf("copy from peers: %w", err)
	}
	return n.judge(path, a)
}

// judge is whether the file is the artifact: nil, or wake.ErrSpent. Where its blocks are what
// the index says, it is the index that is wrong; where one is not, it was the disk, and what is
// before that block stays.
func (n *Nearby) judge(path string, a fetch.Artifact) error {
	damaged := slot.Verify(disk.OS, path, slot.Image{SHA256: a.SHA256, Length: a.Length})
	if damaged == nil {
		return nil
	}
	index, err := readIndex(shelf{n.Downloads.Client, path}.kept(*a.Index), a)
	if err != nil {
		return fmt.Errorf("%w: %w: %w", wake.ErrSpent, damaged, err)
	}
	f, err := openFile(path, index)
	if err != nil {
		return err
	}
	whole := f.done()
	if err := f.close(); err != nil {
		return err
	}
	if !whole {
		return fmt.Errorf("%w: %w", wake.ErrSpent, damaged)
	}
	n.wrong.Store(a.SHA256, *a.Index)
	n.Downloads.Log.Warn("peers are not asked for the artifact any more", "artifact", a.SHA256, "err", fetch.ErrAnother)
	return fmt.Errorf("%w: %w", wake.ErrSpent, fetch.ErrAnother)
}

func (d Downloads) documentOfPeers(ctx context.Context, artifact string, doc topics.Document) ([]byte, error) {
	if !d.near(artifact) {
		return nil, peers.ErrNobody
	}
	return d.Peers.Document(ctx, artifact, doc.SHA256, doc.Length)
}

func (d Downloads) near(artifact string) bool {
	return !d.asleep() && !d.Client.Metered() && d.Peers.Near(artifact)
}

// indexOfPeers is the block index as it is there of an earlier attempt, or as a peer gives
// it; wake.ErrSpent when none does.
func (r *run) indexOfPeers(ctx context.Context) (block.Index, error) {
	a := r.wanted
	raw := r.shelf.kept(*a.Index)
	if raw == nil {
		var err error
		if raw, err = r.documentOfPeers(ctx, a.SHA256, *a.Index); err != nil {
			if errors.Is(err, peers.ErrNobody) {
				err = fmt.Errorf("%w: block index: %w", wake.ErrSpent, err)
			}
			return block.Index{}, err
		}
		r.transfer.Peer += a.Index.Length
		r.shelf.keep(*a.Index, raw)
	}
	return readIndex(raw, a)
}

// follow is join for who asks no source, before anything is read: the file has as many
// blocks as its length says, until they are. It reports whether somebody has more, or soon.
func (r *run) follow(ctx context.Context, index block.Index) (ahead bool) {
	n := 0
	if info, err := os.Stat(r.shelf.path); err == nil {
		n = within(index, info.Size())
	}
	if r.tell != nil {
		r.tell(begins(index, n), *r.transfer) // the index has come, perhaps, and nothing else does
	}
	if n == len(index.Blocks) {
		return true
	}
	r.share = r.Peers.Follow(r.wanted.SHA256, index, r.shelf.path, n)
	segments := segmentsOf(index)
	s := segments[segmentAt(segments, n)]
	return r.share.Ahead(ctx, s.first, s.end, n)
}

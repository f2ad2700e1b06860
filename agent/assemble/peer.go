package assemble

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/wake"
	"groundswell/internal/backoff"
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
// is asked by who sleeps between wakes, nor where the link costs by the byte.
func (n *Nearby) Near(artifact string) bool { return n.Downloads.near(artifact) }

// Document brings a document about an artifact, by its digest; peers.ErrNobody when nobody
// has it.
func (n *Nearby) Document(ctx context.Context, artifact string, doc topics.Document) ([]byte, error) {
	return n.Downloads.documentOfPeers(ctx, artifact, doc)
}

// Artifact brings as much of an artifact into the file at path as the others have, or fetch
// meanwhile, with its block index. It returns nil when the file is complete and verified,
// wake.ErrSpent when nobody brings the rest, and otherwise as Downloads.Artifact does, whose
// tell is the same. Nobody is waited for once patient, if not nil, says false; it is asked
// about every second then. Where the blocks make another artifact than they should, that is
// wake.ErrSpent as well: the file stays for Downloads.Artifact to judge, and nobody is asked
// again for blocks by that index.
func (n *Nearby) Artifact(ctx context.Context, a fetch.Artifact, path string, patient func() bool, tell func(have int64, t topics.Transfer)) error {
	if a.Index == nil || !n.Near(a.SHA256) {
		return wake.ErrSpent
	}
	if index, ok := n.wrong.Load(a.SHA256); ok && index == *a.Index {
		return fmt.Errorf("%w: %w", wake.ErrSpent, errOther)
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
	if err := check(path, a.SHA256); !errors.Is(err, errOther) {
		return err
	}
	n.wrong.Store(a.SHA256, *a.Index)
	n.Downloads.Log.Warn("peers are not asked for the artifact any more", "artifact", a.SHA256, "err", errOther)
	return fmt.Errorf("%w: %w", wake.ErrSpent, errOther)
}

// errOther: each block is as the index says, and the whole is not as the release says.
var errOther = errors.New("the blocks of the index make another artifact")

// check is errOther unless what is in the file has a digest. Its other errors are the disk's.
func check(path, digest string) error {
	file, err := os.Open(path)
	if err != nil {
		return diskError{err}
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return diskError{err}
	}
	if hex.EncodeToString(sum.Sum(nil)) != digest {
		return errOther
	}
	return nil
}

func (d Downloads) documentOfPeers(ctx context.Context, artifact string, doc topics.Document) ([]byte, error) {
	if !d.near(artifact) {
		return nil, peers.ErrNobody
	}
	return d.Peers.Document(ctx, artifact, doc.SHA256, doc.Length)
}

func (d Downloads) near(artifact string) bool {
	return !d.Client.Sleeps() && !d.Client.Metered() && d.Peers.Near(artifact)
}

// indexOfPeers is the block index as it is there of an earlier attempt, or as a peer gives
// it; wake.ErrSpent when none does.
func (d Downloads) indexOfPeers(ctx context.Context, keep shelf, a fetch.Artifact, t *topics.Transfer) (block.Index, error) {
	raw := keep.kept(*a.Index)
	if raw == nil {
		var err error
		if raw, err = d.documentOfPeers(ctx, a.SHA256, *a.Index); err != nil {
			if errors.Is(err, peers.ErrNobody) {
				err = fmt.Errorf("%w: block index: %w", wake.ErrSpent, err)
			}
			return block.Index{}, err
		}
		t.Peer += a.Index.Length
		keep.keep(*a.Index, raw)
	}
	return readIndex(raw, a)
}

// join makes known to the other devices of the site what is made here. A device that
// sleeps between its wakes takes no part: it would keep the others waiting.
func (r *run) join() {
	if !r.follows() && !r.Client.Sleeps() && !r.file.done() {
		r.share = r.Peers.Join(r.wanted.SHA256, r.file.index, r.file.f.Name())
	}
	r.share.Have(r.file.at)
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

// turn waits until a peer has block i, or it is this device's turn to fetch it.
func (r *run) turn(ctx context.Context, i int) (mine bool, err error) {
	n := segmentAt(r.plan.segments, i)
	s := r.plan.segments[n]
	if r.patient == nil {
		return r.share.Turn(ctx, n, s.first, s.end, i)
	}
	waiting, end := r.whilePatient(ctx)
	defer end()
	mine, err = r.share.Turn(waiting, n, s.first, s.end, i)
	if err != nil && ctx.Err() == nil || mine {
		err = wake.ErrSpent // nobody brings it in time
	}
	return false, err
}

// glance is the time between two questions whether others may be waited for any longer.
const glance = time.Second

// whilePatient is a context that ends when others may not be waited for any longer.
func (r *run) whilePatient(ctx context.Context) (waiting context.Context, end func()) {
	waiting, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer cancel()
		tick := time.NewTicker(glance)
		defer tick.Stop()
		for r.patient() {
			select {
			case <-waiting.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return waiting, func() { cancel(); <-watched }
}

// alone is how many segments a device fetches at once that knows of no others: some may
// come.
const alone = 16

// stretch is how many segments may be fetched at once: where others take their turns, one.
func (r *run) stretch() int {
	switch {
	case r.share == nil:
		return 0
	case r.share.Alone():
		return alone
	}
	return 1
}

// receive brings a block from a peer. It returns nil when none has it after all: the
// plan is another one then.
func (r *run) receive(ctx context.Context, i int) error {
	buffer := r.room(int64(r.file.index.Blocks[i].Length))
	n, err := r.share.Block(ctx, i, buffer)
	r.transfer.Peer += n
	switch {
	case errors.Is(err, peers.ErrNobody):
		return nil
	case err != nil:
		return err
	}
	if err := errors.Join(r.file.add(buffer), r.file.sync()); err != nil {
		return err
	}
	r.told()
	return nil
}

// askAgain is Downloads.Again where it is 0.
const askAgain = time.Minute

// rest is Client.Rest, which may be long where the sources want to be left alone. It ends as
// well when news, which asks the others of the site now and then, says that they have
// something.
func (d Downloads) rest(ctx context.Context, artifact string, round int, news func(context.Context) bool) (told bool, err error) {
	if d.Peers == nil || d.Client.Sleeps() {
		return false, d.Client.Rest(ctx, round)
	}
	resting, cancel := context.WithCancel(ctx)
	defer cancel()
	rested := make(chan error, 1)
	go func() { rested <- d.Client.Rest(resting, round) }()
	again := d.Again
	if again <= 0 {
		again = askAgain
	}
	for {
		timer := time.NewTimer(again/2 + backoff.Jitter(again/2))
		select {
		case err := <-rested:
			timer.Stop()
			return false, err
		case <-timer.C:
		}
		if d.near(artifact) && news(ctx) {
			cancel()
			<-rested
			return true, ctx.Err()
		}
	}
}

// rest is Downloads.rest until a peer has the next block.
func (r *run) rest(ctx context.Context, round int) (told bool, err error) {
	return r.Downloads.rest(ctx, r.wanted.SHA256, round, func(ctx context.Context) bool { return r.share.News(ctx, r.file.at) })
}

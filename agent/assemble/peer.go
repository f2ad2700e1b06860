package assemble

import (
	"context"
	"errors"

	"groundswell/agent/peers"
)

// join makes known to the other devices of the site what is made here. A device that
// sleeps between its wakes takes no part: it would keep the others waiting.
func (r *run) join() {
	if r.Client.Sleeps() || r.file.done() {
		return
	}
	r.share = r.Peers.Join(r.wanted.SHA256, r.file.index, r.file.f.Name())
	r.share.Have(r.file.at)
}

// turn waits until a peer has block i, or it is this device's turn to fetch it.
func (r *run) turn(ctx context.Context, i int) (mine bool, err error) {
	n := segmentAt(r.plan.segments, i)
	s := r.plan.segments[n]
	return r.share.Turn(ctx, n, s.first, s.end, i)
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

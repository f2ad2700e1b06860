package assemble

import (
	"context"
	"errors"
	"time"

	"groundswell/agent/peers"
	"groundswell/agent/wake"
	"groundswell/internal/backoff"
)

// asleep reports whether the device sleeps between its wakes to save its battery. Such a one
// takes no part among the others of its site: it would keep them waiting, and itself awake.
// One that only connects on a schedule, and is plugged in, is one as any other.
func (d Downloads) asleep() bool { return d.Client.Sleeps() && (d.Battery == nil || d.Battery()) }

// join makes known to the other devices of the site what is made here.
func (r *run) join() {
	if !r.follows() && !r.asleep() && !r.file.done() {
		r.share = r.Peers.Join(r.wanted.SHA256, r.file.index, r.file.f.Name())
	}
	r.share.Have(r.file.at)
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

// stretch is how many segments may be fetched at once: where others take their turns, one, and
// where another way may be open after it.
func (r *run) stretch() int {
	switch {
	case r.mayReopen(kindPacked), r.mayReopen(kindDelta), r.mayReopen(kindExpanded):
		return 1
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
	r.progressed()
	return nil
}

// askAgain is Downloads.Again where it is 0.
const askAgain = time.Minute

// rest is Client.Rest, which may be long where the sources want to be left alone. It ends as
// well when news, which asks the others of the site now and then, says that they have
// something.
func (d Downloads) rest(ctx context.Context, artifact string, round int, news func(context.Context) bool) (told bool, err error) {
	if d.Peers == nil || d.asleep() {
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

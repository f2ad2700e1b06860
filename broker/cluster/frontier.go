package cluster

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// frontier is how far a stream has got that this node follows and reads from.
//
// What is read comes from the stream's leader; what is followed comes from any of
// its nodes, and each of them stores what is committed when it comes to it: one that
// is faster than the leader hands out what the leader does not have yet. Whoever is
// told what to follow and reads the rest would miss that message, so a read waits
// until the leader has all that was followed here before.
type frontier struct {
	followed atomic.Uint64 // the last sequence that was handed out here
	led      atomic.Uint64 // a sequence that the leader has, for sure
	asking   chan struct{} // holds a token while the leader is being asked
}

func newFrontier(last uint64) *frontier {
	f := &frontier{asking: make(chan struct{}, 1)}
	f.followed.Store(last)
	f.led.Store(last)
	return f
}

// leads says that the leader has that sequence.
func (f *frontier) leads(sequence uint64) {
	for {
		known := f.led.Load()
		if known >= sequence || f.led.CompareAndSwap(known, sequence) {
			return
		}
	}
}

// await returns when the leader has all that was followed before the call.
func (f *frontier) await(ctx context.Context, stream jetstream.Stream) error {
	for followed := f.followed.Load(); f.led.Load() < followed; {
		select {
		case f.asking <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("%w: its leader has not got so far: %w", ErrUnavailable, ctx.Err())
		}
		if f.led.Load() >= followed { // somebody else has asked
			<-f.asking
			return nil
		}
		info, err := stream.Info(ctx)
		<-f.asking
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if f.leads(info.State.LastSeq); info.State.LastSeq < followed {
			pause(ctx, time.Millisecond)
		}
	}
	return nil
}

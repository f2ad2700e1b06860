package peers_test

import (
	"fmt"
	"slices"
	"testing"

	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/internal/devstack/devtest"
)

// shares are three devices that make the same artifact and have nothing of it.
func shares(t *testing.T) (list []*peers.Share, f file) {
	t.Helper()
	ca, addrs := peerstest.CA(t, peerstest.Domain), peerstest.Addrs(t, 3)
	f = newFile(t, 9, 1<<20)
	for i, addr := range addrs {
		// Nobody is to be passed over here, however slow the machine is.
		s := peerstest.Site(t, ca, fmt.Sprintf("cam-%d", i), addr, addrs, func(o *peers.Options) { o.Grace, o.Patience = devtest.Patience, devtest.Patience })
		devtest.Eventually(t, devtest.Patience, "the device to take part", devtest.True(func() bool { return s.Out() == "" }))
		share := s.Join(f.name, f.index, f.path)
		list = append(list, share)
	}
	return list, f
}

// turns asks each of them whether it is its turn. The answers come as they are given.
func turns(t *testing.T, list []*peers.Share, segment, blocks int) <-chan int {
	answers := make(chan int, len(list))
	for i, share := range list {
		go func() {
			mine, err := share.Turn(t.Context(), segment, 0, blocks, 0)
			if err != nil {
				t.Error(err)
			}
			if !mine {
				i = -1
			}
			answers <- i
		}()
	}
	return answers
}

// TestOneDeviceHasItsTurn, though nobody has said that it fetches, and the others get their
// answer when it has the block.
func TestOneDeviceHasItsTurn(t *testing.T) {
	t.Parallel()
	list, f := shares(t)
	answers := turns(t, list, 4, len(f.index.Blocks))
	first := <-answers
	if first < 0 {
		t.Fatal("nobody has the block, and one is told that it need not fetch it")
	}
	for i, share := range list {
		if i != first {
			devtest.Eventually(t, devtest.Patience, "the others to know of it", devtest.True(func() bool { return !share.Alone() }))
		}
	}
	list[first].Have(1)
	for range 2 {
		if i := <-answers; i >= 0 {
			t.Errorf("device %d has its turn as well as device %d", i, first)
		}
	}
	for i, share := range list {
		if i != first && !share.Has(0) {
			t.Errorf("device %d does not know who has it", i)
		}
	}
}

// TestWhoFetchesIsWaitedFor, whoever's turn it would be.
func TestWhoFetchesIsWaitedFor(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		list, f := shares(t)
		defer list[i].Fetches(len(f.index.Blocks))()
		others := slices.Concat(list[:i], list[i+1:])
		answers := turns(t, others, 4, len(f.index.Blocks))
		devtest.Eventually(t, devtest.Patience, "the others to know of it", devtest.True(func() bool { return !others[0].Alone() && !others[1].Alone() }))
		list[i].Have(1)
		for range others {
			if k := <-answers; k >= 0 {
				t.Errorf("device %d fetches, and another one does as well", i)
			}
		}
	}
}

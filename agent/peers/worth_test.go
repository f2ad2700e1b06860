package peers

import (
	"net/http"
	"testing"
	"time"

	"groundswell/internal/block"
)

// slowPeer says that it fetches all of an artifact, and gets on at a rate in bytes a second.
func (l *lan) slowPeer(a artifact, rate int64) (addr string) {
	began := time.Now()
	l.serve("198.18.0.1:8447", "slow", a.peer(func(r *http.Request) (state, bool) {
		if r.Header.Get("Prefer") != "" {
			time.Sleep(10 * time.Second)
		}
		have, came := 0, int64(time.Since(began).Seconds()*float64(rate))
		for _, b := range a.index.Blocks {
			if came -= int64(b.Length); came >= 0 {
				have++
			}
		}
		return state{have, true, len(a.index.Blocks)}, true
	}))
	return "198.18.0.1:8447"
}

// TestWhoIsFasterDoesNotWaitForASlowPeer: whose blocks come, and faster than would have it
// passed over.
func TestWhoIsFasterDoesNotWaitForASlowPeer(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 48<<20)
		s := l.site(l.slowPeer(a, 2*slowest)) // 25 min
		const each = 100 * time.Millisecond
		m := a.makeBy(t, s, each)
		alone := time.Duration(len(a.index.Blocks)) * each
		// Until it has tried itself it does not know better.
		if longest := 2*10*s.opt.Patience + s.opt.Patience + slower*alone; m.waited > longest || m.copied == 0 || m.fetched == 0 {
			t.Errorf("%+v, want at most %v", m, longest)
		}
		if c := s.devices["slow"]; c.strikes > 0 {
			t.Errorf("it is held against the peer: %+v", c)
		}
	})
}

// TestATurnThatFailsDoesNotSayHowFastADeviceIs: the origin is away when it first tries.
func TestATurnThatFailsDoesNotSayHowFastADeviceIs(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 48<<20)
		s := l.site(l.slowPeer(a, 2*slowest)) // 25 min
		const each = 100 * time.Millisecond
		turns := 0
		m := a.makeOver(t, s, func() bool {
			time.Sleep(each)
			turns++
			return turns > 1
		})
		alone := time.Duration(len(a.index.Blocks)) * each
		if longest := 2*10*s.opt.Patience + s.opt.Patience + slower*alone; m.waited > longest || m.copied == 0 || m.fetched == 0 {
			t.Errorf("%+v, want at most %v", m, longest)
		}
	})
}

// TestWhoIsNoFasterWaits: the site's link is slow for all, and one that tries that out does so
// once.
func TestWhoIsNoFasterWaits(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 48<<20)
		s := l.site(l.slowPeer(a, 2*slowest))
		m := a.makeBy(t, s, a.each(6*slowest))
		if m.fetched != 1 || m.waited < 20*time.Minute {
			t.Errorf("%+v of %d", m, len(a.index.Blocks))
		}
	})
}

// each is how long a block takes on average at a rate in bytes a second.
func (a artifact) each(rate int64) time.Duration {
	return time.Duration(int64(len(a.data)) / int64(len(a.index.Blocks)) * int64(time.Second) / rate)
}

// TestManySlowPeersAreWaitedForAsOne: each fetches, and none brings anything.
func TestManySlowPeersAreWaitedForAsOne(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 16<<20)
		var static []string
		for _, n := range []string{"1", "2", "3", "4", "5", "6"} {
			addr := "198.18.0." + n + ":8447"
			var have int
			l.serve(addr, "cam-1"+n, a.peer(func(r *http.Request) (state, bool) {
				if r.Header.Get("Prefer") != "" {
					time.Sleep(29 * time.Second) // just before it counts as late
					have++
				}
				return state{have, true, len(a.index.Blocks)}, true
			}))
			static = append(static, addr)
		}
		s := l.site(static...)
		m := a.makeBy(t, s, 100*time.Millisecond)
		alone := time.Duration(len(a.index.Blocks)) * 100 * time.Millisecond
		if longest := 2*10*s.opt.Patience + s.opt.Patience + slower*alone; m.waited > longest || m.fetched == 0 {
			t.Errorf("%+v, want at most %v", m, longest)
		}
	})
}

// TestOnlyTurnsThatBroughtSomethingTellARate.
func TestOnlyTurnsThatBroughtSomethingTellARate(t *testing.T) {
	var o own
	o.note(nil, time.Hour)
	if o.rate() != 0 {
		t.Errorf("%d bytes a second, of none", o.rate())
	}
	o.note([]block.Block{{Length: 3000}, {Length: 1000}}, 2*time.Second)
	o.note(nil, time.Hour)
	if o.rate() != 2000 {
		t.Errorf("%d bytes a second", o.rate())
	}
}

// TestWhoFollowsHasNothingToLose: however long others took, it could not have it otherwise.
func TestWhoFollowsHasNothingToLose(t *testing.T) {
	sh := &Share{site: &Site{opt: Options{Patience: time.Second}}}
	sh.turn.all, sh.turn.untried = time.Hour, time.Hour
	if !sh.spent() || !sh.tries() {
		t.Error("one that may fetch waits on")
	}
	if sh.follows = true; sh.spent() || sh.tries() {
		t.Error("one that may not does not wait")
	}
}

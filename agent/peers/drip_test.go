package peers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/internal/block"
)

// dripping is a peer that has all of an artifact and sends each block just before its time is
// over.
func (a artifact) dripping() http.HandlerFunc {
	all := a.all()
	return func(w http.ResponseWriter, r *http.Request) {
		if i := a.asked(r); i >= 0 {
			time.Sleep(5*time.Second + queueTime + a.at(i, slowest) - 500*time.Millisecond)
		}
		all(w, r)
	}
}

// slowly is a peer that has all of it and brings blocks at a rate in bytes a second.
func (a artifact) slowly(rate int64) http.HandlerFunc {
	all := a.all()
	return func(w http.ResponseWriter, r *http.Request) {
		if i := a.asked(r); i >= 0 {
			time.Sleep(a.at(i, rate))
		}
		all(w, r)
	}
}

// asked is the block that is asked for; -1: none.
func (a artifact) asked(r *http.Request) int {
	return slices.IndexFunc(a.index.Blocks, func(b block.Block) bool { return strings.HasSuffix(r.URL.Path, b.Name()) })
}

func (a artifact) at(i int, rate int64) time.Duration {
	return time.Duration(a.index.Blocks[i].Length) * time.Second / time.Duration(rate)
}

// TestWhoseBlocksDripIsLeft, however many they are: they cost what those may that bring none,
// and are passed over.
func TestWhoseBlocksDripIsLeft(t *testing.T) {
	const each = 100 * time.Millisecond
	for _, n := range []int{1, 6, 60} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 32<<20)
				var static []string
				for k := range n {
					addr := fmt.Sprintf("198.18.1.%d:8447", k)
					l.serve(addr, fmt.Sprintf("drips-%d", k), a.dripping())
					static = append(static, addr)
				}
				s := l.site(static...)
				began := time.Now()
				m := a.makeBy(t, s, each)
				took, alone := time.Since(began), time.Duration(len(a.index.Blocks))*each
				if longest := 10*time.Minute + 5*alone; took > longest || m.copied == 0 || m.fetched == 0 {
					t.Errorf("%v, %+v, want at most %v; alone %v", took, m, longest, alone)
				}
				struck := 0
				for k := range n {
					if c := s.devices[fmt.Sprintf("drips-%d", k)]; c != nil && c.strikes > 0 {
						struck++
					}
				}
				if struck == 0 {
					t.Error("nobody is passed over")
				}
				t.Logf("%v, alone %v, %+v, %d are passed over", took, alone, m, struck)
			})
		})
	}
}

// TestWhoseAnswersDripAreNotWaitedFor: they bring nothing, and never will.
func TestWhoseAnswersDripAreNotWaitedFor(t *testing.T) {
	const each = 10 * time.Millisecond
	for name, c := range map[string]struct {
		peers  int
		after  time.Duration
		struck bool
	}{
		"one": {1, connectTime - 100*time.Millisecond, true}, "six": {6, connectTime - 100*time.Millisecond, true},
		"not long enough to be blamed": {2, slowAnswer - 100*time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 64<<20)
				var static []string
				for k := range c.peers {
					addr := fmt.Sprintf("198.18.1.%d:8447", k)
					l.serve(addr, fmt.Sprintf("drips-%d", k), a.peer(func(r *http.Request) (state, bool) {
						_ = pause(r.Context(), c.after) // or until nobody waits
						return state{Making: true}, true
					}))
					static = append(static, addr)
				}
				s := l.site(static...)
				began := time.Now()
				m := a.makeBy(t, s, each)
				longest := 11*s.opt.Patience + 5*each*time.Duration(len(a.index.Blocks))
				if took := time.Since(began); took > longest || m.fetched < len(a.index.Blocks) {
					t.Errorf("%v, %+v, want at most %v", took, m, longest)
				}
				if got := s.devices["drips-0"].strikes > 0; got != c.struck {
					t.Errorf("passed over: %v", got)
				}
			})
		})
	}
}

// TestABadAnswerThatComesLateCountsOnce.
func TestABadAnswerThatComesLateCountsOnce(t *testing.T) {
	for name, c := range map[string]struct {
		answer  http.HandlerFunc
		strikes int
	}{
		"none":      {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 1},
		"a bad one": {func(w http.ResponseWriter, _ *http.Request) { time.Sleep(slowAnswer); w.WriteHeader(http.StatusTeapot) }, 1},
		"a right one": {func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(slowAnswer)
			_, _ = w.Write([]byte(`{"have":1}`))
		}, 1},
		"it is not there": {func(w http.ResponseWriter, r *http.Request) { time.Sleep(slowAnswer); http.NotFound(w, r) }, 1},
		"it is in time":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"have":1}`)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 1<<20)
				l.serve("198.18.0.1:8447", "late", c.answer)
				s := l.site("198.18.0.1:8447")
				sh := s.Join(a.name, a.index, "")
				defer sh.Leave()
				n := s.near["198.18.0.1:8447"]
				s.mu.Lock()
				s.recognised(n, "late", Name(here, "late")) // it is waited for
				s.mu.Unlock()
				sh.turn.waited["late"] = sh.most()
				sh.refresh(t.Context())
				if n.strikes != c.strikes {
					t.Errorf("%d strikes", n.strikes)
				}
			})
		})
	}
}

// TestWhoDripsIsNotAskedBesideOneWhoDoesNot, once it has shown that it drips, though nothing is
// known of the other yet.
func TestWhoDripsIsNotAskedBesideOneWhoDoesNot(t *testing.T) {
	for range 10 { // who is asked first is a matter of chance
		inLAN(t, func(t *testing.T, l *lan) {
			a := newArtifact(t, 1<<20)
			var drips atomic.Int32
			l.serve("198.18.0.1:8447", "drips", func(w http.ResponseWriter, r *http.Request) {
				if a.asked(r) >= 0 {
					drips.Add(1)
				}
				a.dripping()(w, r)
			})
			l.serve("198.18.0.2:8447", "good", a.slowly(10<<20))
			s := l.site("198.18.0.1:8447", "198.18.0.2:8447")
			if m := a.makeBy(t, s, 100*time.Millisecond); drips.Load() > 1 || m.fetched > 0 {
				t.Errorf("it is asked for %d blocks, %+v", drips.Load(), m)
			}
		})
	}
}

// TestASlowPeerIsBetterThanASlowerOrigin: where the link is as slow as peers are, they are
// asked for all of it, and nothing is held against them.
func TestASlowPeerIsBetterThanASlowerOrigin(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 64<<20)
		l.serve("198.18.0.1:8447", "slow", a.slowly(4*slowest))
		s := l.site("198.18.0.1:8447")
		if m := a.makeBy(t, s, a.each(2*4*slowest)); m.fetched > 1 || s.devices["slow"].strikes > 0 {
			t.Errorf("%+v of %d, %+v", m, len(a.index.Blocks), s.devices["slow"])
		}
	})
}

// TestWhoIsFasterDoesNotCopyFromASlowPeer, whose blocks are there: the site's link is many
// times as fast.
func TestWhoIsFasterDoesNotCopyFromASlowPeer(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 64<<20)
		l.serve("198.18.0.1:8447", "slow", a.slowly(4*slowest)) // 17 min
		s := l.site("198.18.0.1:8447")
		const each = 100 * time.Millisecond
		began := time.Now()
		m := a.makeBy(t, s, each)
		alone := time.Duration(len(a.index.Blocks)) * each
		if longest := 10*time.Minute + 5*alone; time.Since(began) > longest || m.copied == 0 || m.fetched == 0 {
			t.Errorf("%v, %+v, want at most %v", time.Since(began), m, longest)
		}
		if c := s.devices["slow"]; c.strikes > 0 {
			t.Errorf("it is held against the peer: %+v", c)
		}
	})
}

// TestWhoFollowsCopiesFromWhoDrips: it could not have it otherwise. Those blocks make nothing
// good.
func TestWhoFollowsCopiesFromWhoDrips(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 8<<20)
		l.serve("198.18.0.1:8447", "drips", a.dripping())
		s := l.site("198.18.0.1:8447")
		sh := s.Follow(a.name, a.index, "", 0)
		defer sh.Leave()
		for i, b := range a.index.Blocks {
			if !sh.Has(i) && !sh.News(t.Context(), i) {
				t.Fatalf("block %d is not asked for: %+v", i, s.devices["drips"])
			}
			if _, err := sh.Block(t.Context(), i, make([]byte, b.Length)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				s.devices["drips"].strikes = 1
			}
		}
		if c := s.devices["drips"]; c.strikes != 1 || !c.until.IsZero() || len(a.index.Blocks) < 2*forgiven || sh.turn.waited["drips"] > 0 {
			t.Errorf("after %d blocks: %+v, %v", len(a.index.Blocks), c, sh.turn.waited)
		}
	})
}

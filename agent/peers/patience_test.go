package peers

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestAPeerThatDripsIsLeft for the whole artifact, although each of its blocks comes and is
// right: what it may cost is bounded by what it brings.
func TestAPeerThatDripsIsLeft(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 8<<20)
		var have atomic.Int64
		l.serve("198.18.0.1:8447", "drips", a.peer(func(r *http.Request) (state, bool) {
			if r.Header.Get("Prefer") != "" {
				time.Sleep(29 * time.Second) // just before it counts as late
				have.Add(1)
			}
			return state{int(have.Load()), true, len(a.index.Blocks)}, true
		}))
		s := l.site("198.18.0.1:8447")
		m := a.make(t, s)
		longest := 11*s.opt.Patience + time.Duration(a.index.Length)*time.Second/slowest
		if m.waited > longest || m.copied == 0 || m.fetched == 0 {
			t.Errorf("%+v, want at most %v", m, longest)
		}
		// Nor is it that it just was not the one to wait for.
		if c := s.devices["drips"]; c.strikes == 0 {
			t.Errorf("it is not passed over: %+v", c)
		}
		t.Logf("%+v", m)
	})
}

// TestASlowLinkIsWaitedFor longer than that, where the blocks come as fast as they should. The
// device tries once whether it is faster.
func TestASlowLinkIsWaitedFor(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 16<<20)
		began := time.Now()
		so := func() int { return int(time.Since(began) * 2 * slowest / time.Second / (64 << 10)) }
		l.serve("198.18.0.1:8447", "cam-1", a.peer(func(r *http.Request) (state, bool) {
			if r.Header.Get("Prefer") != "" {
				time.Sleep(10 * time.Second)
			}
			return state{so(), true, len(a.index.Blocks)}, true
		}))
		s := l.site("198.18.0.1:8447")
		if m := a.make(t, s); m.fetched > 1 || m.waited < 10*s.opt.Patience || s.devices["cam-1"].strikes > 0 {
			t.Errorf("%+v, %+v", m, s.devices["cam-1"])
		}
	})
}

// TestWhoAnswersWithNothingIsNotAskedAtOnce: neither is the device kept busy by it, nor for
// longer than by others.
func TestWhoAnswersWithNothingIsNotAskedAtOnce(t *testing.T) {
	for name, says := range map[string]state{"fetches": {0, true, 1 << 20}, "makes it": {0, true, 0}} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 4<<20)
				var asked atomic.Int64
				enough := 2 * int64(11*30*time.Second/leastWait)
				l.serve("198.18.0.1:8447", "hasty", a.peer(func(*http.Request) (state, bool) {
					return says, asked.Add(1) < enough // else nobody's time goes on
				}))
				m := a.make(t, l.site("198.18.0.1:8447"))
				if n := asked.Load(); n < 2 || n > int64(m.waited/leastWait)+2*int64(m.fetched) {
					t.Errorf("it was asked %d times in %v", n, m.waited)
				}
			})
		})
	}
}

// TestWhoTakesBackWhatItSaidIsStruck: that it makes the artifact, or has a block.
func TestWhoTakesBackWhatItSaidIsStruck(t *testing.T) {
	for name, c := range map[string]struct {
		says   state
		then   bool // it says that it has nothing
		blocks int  // status
		want   bool
	}{
		"fetches": {says: state{0, true, 1 << 20}, want: true}, "makes it": {says: state{0, true, 0}, want: true},
		"has it": {says: state{Have: 1 << 20}, blocks: http.StatusNotFound, want: true}, "had it": {says: state{Have: 1 << 20}, blocks: http.StatusGone},
		"never had it": {}, "says that it has nothing": {says: state{0, true, 1 << 20}, then: true},
	} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 1<<20)
				var asked int
				l.serve("198.18.0.1:8447", "cam-1", func(w http.ResponseWriter, r *http.Request) {
					if c.blocks != 0 && !isState(r) {
						w.WriteHeader(c.blocks)
						return
					}
					a.peer(func(*http.Request) (state, bool) {
						if asked++; asked > 1 {
							return state{}, c.then
						}
						return c.says, c.says != state{}
					})(w, r)
				})
				s := l.site("198.18.0.1:8447")
				sh := s.Join(a.name, a.index, "")
				defer sh.Leave()
				mine, err := sh.Turn(t.Context(), 0, 0, perSegment, 0)
				if !mine && err == nil {
					_, err = sh.Block(t.Context(), 0, make([]byte, a.index.Blocks[0].Length))
				}
				if got := s.devices["cam-1"].strikes; (got == 1) != c.want || got > 1 || asked == 0 {
					t.Errorf("%d strikes, %v, %v", got, mine, err)
				}
			})
		})
	}
}

func isState(r *http.Request) bool { return len(r.URL.Path) > 10 && r.URL.Path[:11] == "/artifacts/" }

// TestNobodyTakesBackForEver that there are blocks.
func TestNobodyTakesBackForEver(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 2<<20)
		var asked atomic.Int64
		l.serve("198.18.0.1:8447", "fickle", func(w http.ResponseWriter, r *http.Request) {
			if asked.Load() > 1000 { // enough
				http.NotFound(w, r)
				return
			}
			if isState(r) {
				a.all()(w, r)
				return
			}
			asked.Add(1)
			w.WriteHeader(http.StatusGone)
		})
		s := l.site("198.18.0.1:8447")
		m := a.make(t, s)
		if m.fetched != len(a.index.Blocks) || s.devices["fickle"].strikes == 0 || asked.Load() > int64(m.fetched)/2 {
			t.Errorf("%+v, %d blocks were asked for, %+v", m, asked.Load(), s.devices["fickle"])
		}
	})
}

package peers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/peers/mdns"
)

// TestStrikesOutliveAGoodbye, which anybody may have sent, and another address: they are
// the certificate's.
func TestStrikesOutliveAGoodbye(t *testing.T) {
	const before, after = "198.18.0.1:8447", "198.18.0.2:8448"
	for name, h := range map[string]func(a artifact) http.HandlerFunc{
		"wrong block": func(a artifact) http.HandlerFunc { return wrong(a) },
		"stalls": func(a artifact) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 256<<10)
				var asked atomic.Int64
				counted := func(w http.ResponseWriter, r *http.Request) { asked.Add(1); h(a)(w, r) }
				l.serve(before, "liar", counted)
				l.serve(after, "liar", counted)
				s := l.site()
				s.met(found("liar", before, a.name))
				sh := s.Join(a.name, a.index, "")
				defer sh.Leave()
				sh.refresh(t.Context())
				if sh.Has(0) {
					_, _ = sh.Block(t.Context(), 0, make([]byte, a.index.Blocks[0].Length))
				}
				n := asked.Load()
				if n == 0 {
					t.Fatal("it was not asked")
				}
				s.met(bye("liar", before))
				time.Sleep(farewell + time.Second)
				for _, addr := range []string{before, after} {
					s.met(found("liar", addr, a.name))
				}
				sh = s.Join(a.name, a.index, "")
				defer sh.Leave()
				sh.refresh(t.Context())
				sh.refresh(t.Context())
				// To find out that it is the same one takes a question.
				if sh.Has(0) || asked.Load() > n+1 {
					t.Errorf("it is asked again: %d times", asked.Load()-n)
				}
				if c := s.devices["liar"]; c == nil || !c.dropped && c.strikes != 2 {
					t.Errorf("what is held against it: %+v", c)
				}
			})
		})
	}
}

// wrong has everything, and sends something else.
func wrong(a artifact) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if isState(r) {
			a.all()(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(a.index.Blocks[0].Length))
		_, _ = w.Write(make([]byte, a.index.Blocks[0].Length))
	}
}

// TestNoGoodbyeTakesAwayWhoHasDelivered, nor does an announcement of nothing, or of a short
// life. One that has not delivered is believed to be gone.
func TestNoGoodbyeTakesAwayWhoHasDelivered(t *testing.T) {
	const addr = "198.18.0.1:8447"
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 256<<10)
		l.serve(addr, "cam-1", a.all())
		s := l.site()
		s.met(found("cam-1", addr, a.name))
		s.met(bye("cam-1", addr))
		time.Sleep(farewell + time.Second)
		if m := a.make(t, s); m.copied > 0 || len(s.near) > 0 {
			t.Errorf("who has said that it is gone is asked: %+v", m)
		}
		s.met(found("cam-1", addr, a.name))
		if m := a.make(t, s); m.fetched > 0 {
			t.Fatalf("%+v", m)
		}
		nothing, short, another := found("cam-1", addr), found("cam-1", addr, a.name), found("cam-2", addr, a.name)
		short.TTL = time.Second
		for name, f := range map[string]mdns.Found{"gone": bye("cam-1", addr), "for a short time": short, "nothing": nothing, "another": another} {
			s.met(f)
			time.Sleep(farewell + time.Second)
			if m := a.make(t, s); m.fetched > 0 || s.near[addr] == nil || s.near[addr].name != Name(here, "cam-1") {
				t.Errorf("%s: it is not asked any more: %+v", name, m)
			}
		}
	})
}

// TestAnnouncementsExpire unless they are renewed, however long they say to be good for.
func TestAnnouncementsExpire(t *testing.T) {
	const addr = "198.18.0.1:8447"
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 256<<10)
		l.serve(addr, "cam-1", a.all())
		s := l.site()
		for _, c := range []struct{ says, good time.Duration }{{mdns.TTL, mdns.TTL}, {time.Hour, time.Hour}, {1000 * time.Hour, mdns.TTL}} {
			f := found("cam-1", addr, a.name)
			f.TTL = c.says
			for range 2 { // it is renewed
				s.met(f)
				time.Sleep(c.good - time.Second)
				if m := a.make(t, s); m.fetched > 0 {
					t.Errorf("%v: it is forgotten too early", c.says)
				}
			}
			time.Sleep(2 * time.Second)
			if m := a.make(t, s); m.copied > 0 || len(s.near) > 0 {
				t.Errorf("%v: it is not forgotten", c.says)
			}
		}
	})
}

// TestFakeNamesKeepNobodyOut: thousands are announced, at addresses where nobody is or
// nobody speaks, and of another device's name; and that device is found and asked.
func TestFakeNamesKeepNobodyOut(t *testing.T) {
	const addr = "198.18.0.1:8447"
	for name, at := range map[string]func(i int) (device, addr string){
		"nobody is there": func(i int) (string, string) {
			return fmt.Sprint("fake-", i), fmt.Sprintf("198.18.1.%d:%d", i%3, 1000+i)
		},
		"nobody speaks":  func(i int) (string, string) { return fmt.Sprint("fake-", i), fmt.Sprintf("198.18.2.%d:%d", i%3, 1+i%8) },
		"its name":       func(i int) (string, string) { return "cam-1", fmt.Sprintf("198.18.1.%d:%d", i%3, 1000+i) },
		"many addresses": func(i int) (string, string) { return fmt.Sprint("fake-", i), fmt.Sprintf("198.18.3.%d:1", 1+i%250) },
	} {
		t.Run(name, func(t *testing.T) {
			inLAN(t, func(t *testing.T, l *lan) {
				a := newArtifact(t, 8<<20)
				l.serve(addr, "cam-1", a.all())
				for i := range 24 {
					l.silent(fmt.Sprintf("198.18.2.%d:%d", i%3, 1+i%8))
				}
				s := l.site()
				fakes := 0
				flood := func() {
					for range 1000 {
						device, at := at(fakes)
						s.met(found(device, at, a.name))
						fakes++
					}
				}
				flood()
				s.met(found("cam-1", addr, a.name))
				flood()
				sh := s.Join(a.name, a.index, "")
				defer sh.Leave()
				began := time.Now()
				for rounds := 1; !sh.Has(0); rounds++ {
					if rounds > maxStrange {
						t.Fatal("it is not found")
					}
					sh.refresh(t.Context())
					time.Sleep(time.Second)
					s.met(found("cam-1", addr, a.name)) // it is asked, as all are
					flood()
				}
				if n := len(s.near); n > maxStrange+1 || len(s.places) > maxConducts {
					t.Errorf("%d neighbours are known, and %d places", n, len(s.places))
				}
				if !slices.Equal(s.known(), []string{Name(here, "cam-1")}) {
					t.Errorf("these need not answer: %v", s.known())
				}
				// From then on the others cost no time, and it keeps its place.
				if took := time.Since(began); took > 10*time.Minute {
					t.Errorf("it is found after %v", took)
				}
				m := a.make(t, s)
				if m.fetched > 0 || m.waited > maxStrangers {
					t.Errorf("%+v", m)
				}
				for range 5 {
					flood()
				}
				if s.near[addr] == nil {
					t.Error("it has lost its place")
				}
			})
		})
	}
}

// TestOneAddressHasFewPlaces that nobody has proved to be at, and where there are too many
// of all, those go whose address has the most.
func TestOneAddressHasFewPlaces(t *testing.T) {
	s := site(t)
	s.met(found("cam-2", "198.18.0.1:8447"))
	for i := range 1000 {
		s.met(found(fmt.Sprint("fake-", i), fmt.Sprintf("198.18.1.1:%d", 1+i)))
	}
	if len(s.near) != 1+maxAtOne {
		t.Errorf("%d places", len(s.near))
	}
	for i := range 1000 {
		s.met(found(fmt.Sprint("fake-", i), fmt.Sprintf("198.18.1.%d:%d", i%(maxStrange/2), 1+i)))
	}
	if len(s.near) != maxStrange || s.near["198.18.0.1:8447"] == nil {
		t.Errorf("%d places, and among them %+v", len(s.near), s.near["198.18.0.1:8447"])
	}
}

// TestWhoCannotProveItLosesItsPlace, and gets none for a while.
func TestWhoCannotProveItLosesItsPlace(t *testing.T) {
	const away, silent, strange = "198.18.0.1:8447", "198.18.0.2:8447", "198.18.0.3:8447"
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 256<<10)
		l.silent(silent)
		other := &lan{t: t, ca: l.ca, at: l.at, calls: l.calls}
		other.ca = otherCA(t)
		other.serve(strange, "cam-3", a.all())
		s := l.site()
		meet := func() {
			for i, addr := range []string{away, silent, strange} {
				s.met(found(fmt.Sprint("cam-", i+1), addr, a.name))
			}
		}
		meet()
		sh := s.Join(a.name, a.index, "")
		defer sh.Leave()
		for range 2 {
			sh.refresh(t.Context())
			meet()
		}
		if sh.Has(0) {
			t.Error("somebody has it")
		}
		for _, addr := range []string{away, silent, strange} {
			if s.near[addr] != nil || l.called(addr) != 1 {
				t.Errorf("%s has a place, and was called %d times", addr, l.called(addr))
			}
		}
		// Who is there later is found.
		l.serve(away, "cam-1", a.all())
		time.Sleep(passTime)
		s.met(found("cam-1", away, a.name))
		if m := a.make(t, s); m.fetched > 0 {
			t.Errorf("%+v", m)
		}
	})
}

// TestSilentPlacesCostLittleTime, however many segments there are and however many are
// announced: nobody without a certificate holds a download up.
func TestSilentPlacesCostLittleTime(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 8<<20)
		s := l.site()
		for i := range 100 {
			addr := fmt.Sprintf("198.18.2.%d:1", i)
			l.silent(addr)
			s.met(found(fmt.Sprint("fake-", i), addr, a.name))
		}
		m := a.make(t, s)
		if m.waited > maxStrangers+10*time.Second || m.fetched != len(a.index.Blocks) {
			t.Errorf("%+v", m)
		}
	})
}

// TestWhoHasDeliveredIsAskedFirst, and who is not known is asked in turn.
func TestWhoHasDeliveredIsAskedFirst(t *testing.T) {
	s := New(Options{Config: Default(), Device: "cam-own", TrustDomain: here})
	for i := range 40 {
		addr := fmt.Sprintf("198.18.0.%d:8447", i)
		s.met(found(fmt.Sprint("cam-", i), addr, fullName))
		if i < 30 {
			s.recognised(s.near[addr], fmt.Sprint("cam-", i), Name(here, fmt.Sprint("cam-", i)))
			s.near[addr].proven = i < 5
		}
	}
	all := func(*neighbour) bool { return false }
	seen := map[string]bool{}
	for range 3 {
		known, strange := s.choose(fullName[:shortDigest], all)
		if len(known) != maxAsked-leastStrange || len(strange) != leastStrange {
			t.Fatalf("%d and %d are asked", len(known), len(strange))
		}
		for i, n := range known {
			if n.proven != (i < 5) {
				t.Errorf("place %d: %+v", i, n)
			}
		}
		for _, n := range strange {
			seen[n.addr] = true
		}
	}
	if len(seen) != 10 {
		t.Errorf("%d of 10 are asked who they are", len(seen))
	}
	// Each device is asked once, however many addresses it has.
	s = New(Options{Config: Default(), Device: "cam-0", TrustDomain: here})
	for i := range 3 {
		addr := fmt.Sprintf("198.18.1.%d:8447", i)
		s.met(found("cam-1", addr, fullName))
		if i < 2 {
			s.recognised(s.near[addr], "cam-1", Name(here, "cam-1"))
		}
	}
	if known, strange := s.choose(fullName[:shortDigest], all); len(known) != 1 || len(strange) != 0 {
		t.Errorf("%d and %d are asked", len(known), len(strange))
	}
}

const fullName = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestWhoMayHaveSomethingIsWhoAnnouncesIt, as long as that is true, and while the device
// takes part.
func TestWhoMayHaveSomethingIsWhoAnnouncesIt(t *testing.T) {
	const addr = "198.18.0.1:8447"
	inLAN(t, func(t *testing.T, l *lan) {
		a, other := newArtifact(t, 256<<10), fmt.Sprintf("%064d", 1)
		s := l.site()
		near := func(want bool) {
			t.Helper()
			if s.Near(a.name) != want || s.Near(other) || s.Near("") {
				t.Errorf("near: %v, of something else: %v", !want, s.Near(other))
			}
		}
		near(false)
		s.met(found("cam-1", addr, a.name))
		near(true)
		s.setOut("on battery")
		near(false)
		s.setOut("")
		near(true)
		time.Sleep(mdns.TTL + time.Second)
		near(false)
	})
}

// TestNobodyKeepsADocumentBack: whoever gives nothing, or is not there, costs a time that is
// bounded for all of them together.
func TestNobodyKeepsADocumentBack(t *testing.T) {
	inLAN(t, func(t *testing.T, l *lan) {
		a := newArtifact(t, 256<<10)
		raw := a.index.Bytes()
		s := l.site()
		for i := range 12 {
			addr := fmt.Sprintf("198.18.0.%d:8447", i+1)
			if i%4 == 0 {
				l.silent(addr)
			} else {
				l.serve(addr, fmt.Sprintf("cam-%d", i), func(w http.ResponseWriter, r *http.Request) {
					if i%4 == 1 || !isState(r) {
						<-r.Context().Done()
						return
					}
					a.all()(w, r)
				})
			}
			s.met(found(fmt.Sprintf("cam-%d", i), addr, a.name))
		}
		began := time.Now()
		if _, err := s.Document(t.Context(), a.name, its(raw), int64(len(raw))); !errors.Is(err, ErrNobody) {
			t.Errorf("%v", err)
		}
		if took, most := time.Since(began), s.opt.Patience+time.Second; took > most {
			t.Errorf("it took %v", took)
		}
		const good = "198.18.1.1:8447"
		l.serve(good, "good", func(w http.ResponseWriter, r *http.Request) {
			if isState(r) {
				a.all()(w, r)
				return
			}
			_, _ = w.Write(raw)
		})
		s.met(found("good", good, a.name))
		for range 12 { // those who stall are passed over, one after the other
			if got, err := s.Document(t.Context(), a.name, its(raw), int64(len(raw))); err == nil && bytes.Equal(got, raw) {
				return
			}
		}
		t.Error("who has it was never asked")
	})
}

func its(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

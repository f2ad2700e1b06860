package assemble

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// site is n devices of one site that download the same thing, and others beside them.
type site struct {
	t       testing.TB
	ca      *certs.CA
	devices []*device
}

func newSite(t testing.TB, o *origin, n int, others func(ca *certs.CA) []string) *site {
	s := &site{t: t, ca: peerstest.CA(t, peerstest.Domain)}
	addrs := peerstest.Addrs(t, n)
	var strange []string
	if others != nil {
		strange = others(s.ca)
	}
	var wait func(*peers.Options)
	if others != nil {
		wait = peerstest.Hurried
	}
	for i := range n {
		d := newDevice(t, o.URL)
		d.Peers = peerstest.Site(t, s.ca, fmt.Sprintf("cam-%d", i), addrs[i], append(strange, addrs...), wait)
		s.devices = append(s.devices, d)
	}
	for _, d := range s.devices {
		takesPart(t, d.Peers)
	}
	return s
}

func takesPart(t testing.TB, p *peers.Site) {
	t.Helper()
	devtest.Eventually(t, devtest.Patience, "a device to take part", devtest.True(func() bool { return p.Out() == "" }))
}

// all has all devices fetch at once, and ends when they have it.
func (s *site) all(a fetch.Artifact, want []byte) {
	s.t.Helper()
	var working sync.WaitGroup
	for i, d := range s.devices {
		working.Go(func() {
			if err := d.fetch(a); err != nil {
				s.t.Errorf("device %d: %v", i, err)
			}
		})
	}
	working.Wait()
	for _, d := range s.devices {
		d.holds(want)
	}
}

// copies is how many times as much as the artifact has the origin has sent.
func (o *origin) copies(a fetch.Artifact) float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return float64(o.sent["artifacts"]+o.sent["packs"]) / float64(a.Length)
}

// TestTenDevicesFetchAboutOneCopy although all begin at once.
func TestTenDevicesFetchAboutOneCopy(t *testing.T) {
	o := newOrigin(t)
	data := noise(1, 8<<20)
	a := o.release(data, false)
	s := newSite(t, o, 10, nil)
	s.all(a, data)
	fetched := 0
	for _, d := range s.devices {
		if d.last.Full > 0 {
			fetched++
		}
		if d.last.Full+d.last.Peer < a.Length {
			t.Errorf("%+v", d.last)
		}
	}
	if copies := o.copies(a); copies > 1.5 || fetched < 2 {
		t.Errorf("the origin has sent %.2f copies, to %d devices", copies, fetched)
	} else {
		t.Logf("the origin has sent %.2f copies, to %d devices", copies, fetched)
	}
}

// TestWhoComesLaterCopiesAll from who has it already, and asks the origin for the index only.
func TestWhoComesLaterCopiesAll(t *testing.T) {
	o := newOrigin(t)
	data := text(2, 4<<20)
	a := o.release(data, true)
	s := newSite(t, o, 2, nil)
	s.devices[0].must(a, data)
	before := o.copies(a)
	s.devices[1].must(a, data)
	got := s.devices[1].last
	if got.Peer != a.Length || got.Full+got.Packed+got.Delta > 0 || o.copies(a)-before > 0.01 {
		t.Errorf("%+v, and the origin has sent %.3f copies", got, o.copies(a)-before)
	}
}

// TestWhatPeersBringCostsNoBudget: they bring more than the device may use in a day.
func TestWhatPeersBringCostsNoBudget(t *testing.T) {
	o := newOrigin(t)
	data := noise(4, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	s.devices[0].must(a, data)
	allowed := allowance.New(allowance.Config{DailyBudget: 256 << 10}, "cam-1", clock.New(time.Now(), nil), slog.New(slog.DiscardHandler))
	s.devices[1].Client = fetch.New(fetch.Config{Sources: func() []string { return []string{o.URL} }, Allowance: allowed})
	defer s.devices[1].Client.Close()
	s.devices[1].must(a, data)
	if got, left := s.devices[1].last, must1(allowed.Left()); got.Peer != a.Length || left < 192<<10 || left == 256<<10 {
		t.Errorf("%+v, and %d bytes are left", got, left)
	}
}

func must1[V any](v V, _ bool) V { return v }

// hostile says that it has everything, and answers for a block as it likes.
func hostile(blocks *atomic.Int64, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			_ = json.NewEncoder(w).Encode(map[string]any{"have": 1 << 20})
			return
		}
		blocks.Add(1)
		answer(w, r)
	}
}

// TestAPeerThatSendsAWrongBlockCostsOneBlock and is not asked again, by any address.
func TestAPeerThatSendsAWrongBlockCostsOneBlock(t *testing.T) {
	o := newOrigin(t)
	data := noise(3, 4<<20)
	a := o.release(data, false)
	index := indexOf(t, data)
	var asked atomic.Int64
	liar := hostile(&asked, func(w http.ResponseWriter, r *http.Request) {
		for _, b := range index.Blocks {
			if strings.HasSuffix(r.URL.Path, b.Name()) {
				wrong := make([]byte, b.Length)
				w.Header().Set("Content-Length", fmt.Sprint(len(wrong)))
				_, _ = w.Write(wrong)
			}
		}
	})
	s := newSite(t, o, 1, func(ca *certs.CA) []string {
		return []string{peerstest.Serve(t, ca, "liar", liar), peerstest.Serve(t, ca, "liar", liar)}
	})
	d := s.devices[0]
	d.must(a, data)
	if n := asked.Load(); n != 1 || d.last.Peer != int64(index.Blocks[0].Length) || d.last.Full != a.Length {
		t.Errorf("%d blocks were asked for: %+v", n, d.last)
	}
	// It is known at two places, and dropped at one; the other is not counted again.
	if got := (&Nearby{Downloads: d.Downloads}).Faults(); got != (topics.PeerFaults{Wrong: 1}) || d.Peers.Faults() != (topics.PeerFaults{}) {
		t.Errorf("it counts %+v", got)
	}
	again := newDevice(t, o.URL)
	again.Peers = d.Peers
	again.must(a, data)
	if n := asked.Load(); n != 1 || again.last.Peer != 0 {
		t.Errorf("the next download asks it again: %d, %+v", n, again.last)
	}
}

// TestAPeerThatDoesNotDeliverCostsTimeOnly: it stalls, hangs up, sends for ever, or says
// that it fetches and never does.
func TestAPeerThatDoesNotDeliverCostsTimeOnly(t *testing.T) {
	data := noise(4, 8<<20)
	for name, h := range map[string]http.HandlerFunc{
		"stalls": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs up": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "65536")
			_, _ = w.Write(make([]byte, 100))
			panic(http.ErrAbortHandler)
		},
		"never ends": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		},
		"does not have it": http.NotFound,
		"is busy": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"sends somebody on": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://127.0.0.1/")
			w.WriteHeader(http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			a := o.release(data, false)
			var asked atomic.Int64
			s := newSite(t, o, 1, func(ca *certs.CA) []string { return []string{peerstest.Serve(t, ca, "lame", hostile(&asked, h))} })
			d := s.devices[0]
			d.must(a, data)
			if d.last.Full != a.Length || asked.Load() == 0 || asked.Load() > 5 {
				t.Errorf("%d blocks were asked for: %+v", asked.Load(), d.last)
			}
			got := d.Peers.Faults()
			if wrong := name == "never ends"; (got.Wrong > 0) != wrong || (got.Failed > 0) == wrong && name != "is busy" || got.Away > 0 {
				t.Errorf("it counts %+v", got)
			}
		})
	}
	for name, answer := range map[string]string{
		"says that it fetches": `{"have":0,"making":true,"fetching":1000000}`, "says that it makes it": `{"have":0,"making":true}`,
		"says nonsense": `{"have":-1}`, "says too much": `{"have":1` + strings.Repeat(" ", 1<<20) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			a := o.release(data, false)
			s := newSite(t, o, 1, func(ca *certs.CA) []string {
				return []string{peerstest.Serve(t, ca, "lame", func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Prefer") != "" {
						<-r.Context().Done()
						return
					}
					_, _ = w.Write([]byte(answer))
				})}
			})
			s.devices[0].must(a, data)
		})
	}
}

// TestWhoFetchesMayGoAway in the middle: another one fetches the rest.
func TestWhoFetchesMayGoAway(t *testing.T) {
	o := newOrigin(t)
	data := noise(5, 8<<20)
	a := o.release(data, false)
	s := newSite(t, o, 3, nil)
	ctx, stop := context.WithCancel(t.Context())
	o.set(func(http.ResponseWriter, *http.Request) bool {
		if o.copies(a) > 0.3 {
			stop()
		}
		return false
	})
	var working sync.WaitGroup
	working.Go(func() {
		_ = s.devices[0].Artifact(ctx, a, s.devices[0].path, nil)
	})
	for _, d := range s.devices[1:] {
		working.Go(func() {
			if err := d.fetch(a); err != nil {
				t.Error(err)
			}
		})
	}
	working.Wait()
	for _, d := range s.devices[1:] {
		d.holds(data)
	}
	if ctx.Err() == nil {
		t.Error("nobody went away")
	}
	if copies := o.copies(a); copies > 1.5 {
		t.Errorf("the origin has sent %.2f copies", copies)
	}
}

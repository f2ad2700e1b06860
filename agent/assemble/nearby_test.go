package assemble

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/wake"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// copies has a device take what others have. What the sources were asked for meanwhile is
// an error.
func copies(d *device, o *origin, a fetch.Artifact) error {
	d.t.Helper()
	return copiesBy(&Nearby{Downloads: d.Downloads}, d, o, a)
}

func copiesBy(n *Nearby, d *device, o *origin, a fetch.Artifact) error {
	d.t.Helper()
	before := o.asked()
	err := n.Artifact(d.t.Context(), a, d.path, nil, func(have int64, x topics.Transfer) { d.have, d.last = have, x })
	if n := o.asked() - before; n > 0 {
		d.t.Errorf("the sources were asked %d times", n)
	}
	return err
}

// half brings more than a half of an artifact.
func half(d *device, a fetch.Artifact) {
	d.t.Helper()
	ctx, stop := context.WithCancel(d.t.Context())
	defer stop()
	err := d.Artifact(ctx, a, d.path, func(have int64, x topics.Transfer) {
		if d.have, d.last = have, x; have > a.Length/2 {
			stop()
		}
	})
	if err == nil {
		d.t.Fatal("it has it all")
	}
}

// TestWhoMayNotDownloadCopiesAll, with the block index, and asks no source for anything. What
// nobody has it does not bring; it goes on with what it has, and nothing comes twice.
func TestWhoMayNotDownloadCopiesAll(t *testing.T) {
	o := newOrigin(t)
	data := noise(7, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	d := s.devices[1]
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || d.last != (topics.Transfer{}) {
		t.Errorf("nobody has anything: %v, %+v", err, d.last)
	}
	half(s.devices[0], a)
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || d.have != s.devices[0].have || d.last.Peer != d.have+a.Index.Length || d.last.Received() != d.last.Peer {
		t.Errorf("the other one has %d: %v, %d, %+v", s.devices[0].have, err, d.have, d.last)
	}
	had := d.have
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || d.last.Received() != 0 || d.have != had {
		t.Errorf("nothing is new: %v, %d, %+v", err, d.have, d.last)
	}
	s.devices[0].must(a, data)
	if err := copies(d, o, a); err != nil || d.last.Received() != a.Length-had {
		t.Errorf("the other one has all: %v, %+v", err, d.last)
	}
	d.holds(data)
}

// TestWhatCameFromPeersIsNotDownloaded when that is allowed again.
func TestWhatCameFromPeersIsNotDownloaded(t *testing.T) {
	o := newOrigin(t)
	data := noise(8, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	d := s.devices[1]
	half(s.devices[0], a)
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) {
		t.Fatal(err)
	}
	had, sent := d.have, o.copies(a)
	d.must(a, data)
	if d.last.Full != a.Length-had || d.last.Received() != d.last.Full {
		t.Errorf("%d bytes were there: %+v", had, d.last)
	}
	if more := o.copies(a) - sent; more > float64(a.Length-had)/float64(a.Length)+0.01 {
		t.Errorf("%.2f copies more, with %d bytes of %d there", more, had, a.Length)
	}
}

// TestWhatRunsIsNotReadForNothing: only if the others have something that is not there.
func TestWhatRunsIsNotReadForNothing(t *testing.T) {
	o := newOrigin(t)
	data := noise(14, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	d := s.devices[1]
	a.Seed = runs(t, data[:3<<20])
	open, opened := a.Seed.Open, 0
	a.Seed.Open = func() (fetch.ReadAtCloser, error) { opened++; return open() }
	other := a
	other.Seed = nil
	half(s.devices[0], other)
	for round, want := range []int{1, 1, 1} {
		if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || opened != want {
			t.Errorf("round %d: what runs was opened %d times: %v", round, opened, err)
		}
	}
	if d.have < s.devices[0].have {
		t.Errorf("%d bytes are there, the other one has %d", d.have, s.devices[0].have)
	}
	s.devices[0].must(other, data)
	if err := copies(d, o, a); err != nil || opened != 2 {
		t.Errorf("what runs was opened %d times: %v", opened, err)
	}
	d.holds(data)
}

// TestWhatIsThereIsNotReadForNothing: what is wrong in it is cut off only when the others have
// more, and the device says all the while how much is there.
func TestWhatIsThereIsNotReadForNothing(t *testing.T) {
	o := newOrigin(t)
	data := noise(16, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	d := s.devices[1]
	half(s.devices[0], a)
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || d.have == 0 {
		t.Fatalf("%d bytes: %v", d.have, err)
	}
	had := d.have
	spoilt := append([]byte{data[0] + 1}, data[1:had]...)
	if err := os.WriteFile(d.path, spoilt, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) || d.have != had {
			t.Errorf("%d bytes of %d: %v", d.have, had, err)
		}
		d.holds(spoilt)
	}
	s.devices[0].must(a, data)
	if err := copies(d, o, a); err != nil {
		t.Error(err)
	}
	d.holds(data)
}

// TestWhoMayNotDownloadFollowsOneThatDoes, which never waits for it.
func TestWhoMayNotDownloadFollowsOneThatDoes(t *testing.T) {
	o := newOrigin(t)
	data := noise(9, 8<<20)
	a := o.release(data, false)
	s := newSite(t, o, 2, nil)
	var working sync.WaitGroup
	working.Go(func() { s.devices[0].must(a, data) })
	d := s.devices[1]
	n := &Nearby{Downloads: d.Downloads}
	var last topics.Transfer
	devtest.Eventually(t, devtest.Patience, "all to be copied", func() error {
		return n.Artifact(t.Context(), a, d.path, nil, func(_ int64, x topics.Transfer) { last = x })
	})
	working.Wait()
	d.holds(data)
	if got := s.devices[0].last; got.Full < a.Length || o.copies(a) > 1.01 || last.Received() != last.Peer {
		t.Errorf("the origin has sent %.2f copies, one has %+v, the other %+v", o.copies(a), got, last)
	}
}

// TestWhoIsStoppedStops, whatever the network has brought by then.
func TestWhoIsStoppedStops(t *testing.T) {
	o := newOrigin(t)
	data := noise(20, 4<<20)
	a := o.release(data, false)
	d := newDevice(t, o.URL)
	ctx, stop := context.WithCancel(t.Context())
	told := 0
	err := d.Artifact(ctx, a, d.path, func(have int64, _ topics.Transfer) {
		if have > 0 {
			told++
			stop()
		}
	})
	if !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("it goes on for %d units: %v", told-1, err)
	}
}

// unasked is a site whose only other device fails the test when it is asked.
func unasked(t *testing.T, o *origin) *device {
	t.Helper()
	s := newSite(t, o, 1, func(ca *certs.CA) []string {
		return []string{peerstest.Serve(t, ca, "other", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL.Path) })}
	})
	return s.devices[0]
}

// TestNobodyIsAskedOverAMeteredLink for what may not be downloaded; nor by a device that
// sleeps between its wakes.
func TestNobodyIsAskedOverAMeteredLink(t *testing.T) {
	o := newOrigin(t)
	a := o.release(noise(11, 1<<20), false)
	d := unasked(t, o)
	command := filepath.Join(t.TempDir(), "unmetered")
	if err := os.WriteFile(command, []byte("#!/bin/sh\necho it is LTE\nexit 21\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	allowed := allowance.New(allowance.Config{Metered: allowance.Metered{Unmetered: []string{command}}}, "cam-1", clock.New(time.Now(), nil), slog.New(slog.DiscardHandler))
	asleep := wake.New(wake.Limits{Bytes: 1 << 20})
	asleep.Begin()
	if hold := allowed.Look(t.Context(), nil); hold == nil || hold.Reason != allowance.ReasonMetered || !allowed.Metered() {
		t.Fatalf("%+v, metered %v", hold, allowed.Metered())
	}
	for name, cfg := range map[string]fetch.Config{"metered": {Allowance: allowed}, "asleep": {Wake: asleep}} {
		cfg.Sources = func() []string { return []string{o.URL} }
		d.Client = fetch.New(cfg)
		defer d.Client.Close()
		if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) {
			t.Errorf("%s: %v", name, err)
		}
		n := &Nearby{Downloads: d.Downloads}
		if _, err := n.Document(t.Context(), a.SHA256, *a.Index); !errors.Is(err, peers.ErrNobody) || n.Near(a.SHA256) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhoConnectsOnAScheduleAndIsPluggedInCopies as any other does, whatever is left of its
// wake's budget, also what it may not download.
func TestWhoConnectsOnAScheduleAndIsPluggedInCopies(t *testing.T) {
	o := newOrigin(t)
	data := noise(21, 2<<20)
	a := o.release(data, false)
	for name, c := range map[string]struct {
		budget  int64
		battery bool
		may     bool // download
		copies  bool
	}{
		"plugged in":                    {budget: 128 << 10, may: true, copies: true},
		"plugged in, may not download":  {budget: 128 << 10, copies: true},
		"without a budget, nor may":     {copies: true},
		"on battery":                    {battery: true, may: true},
		"on battery, may not download":  {battery: true},
		"on battery, with a budget too": {budget: 4 << 20, battery: true, may: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, o, 2, nil)
			s.devices[0].must(a, data)
			d := s.devices[1]
			awake := wake.New(wake.Limits{Bytes: c.budget})
			awake.Begin()
			d.Client = fetch.New(fetch.Config{Sources: func() []string { return []string{o.URL} }, Wake: awake})
			defer d.Client.Close()
			d.Battery = func() bool { return c.battery }
			if c.may {
				d.must(a, data)
				if got := d.last.Peer; got != 0 != c.copies {
					t.Errorf("peers have brought %d bytes of %d", got, a.Length)
				}
				return
			}
			if err := copies(d, o, a); err == nil != c.copies || err != nil && !errors.Is(err, wake.ErrSpent) {
				t.Error(err)
			}
		})
	}
}

// TestAnOlderPeerGivesItsBlocks, though it has no index: 404 is no reason to pass it over.
func TestAnOlderPeerGivesItsBlocks(t *testing.T) {
	o := newOrigin(t)
	data := noise(13, 4<<20)
	a := o.release(data, false)
	s := newSite(t, o, 1, nil)
	s.devices[0].must(a, data)
	front := older(t, s)
	d := newDevice(t, o.URL)
	d.Peers = peerstest.Site(t, s.ca, "cam-9", "127.0.0.1:0", []string{front}, nil)
	takesPart(t, d.Peers)
	if err := copies(d, o, a); !errors.Is(err, wake.ErrSpent) {
		t.Fatal(err)
	}
	d.must(a, data)
	if d.last.Peer != a.Length || d.last.Index != a.Index.Length {
		t.Errorf("%+v", d.last)
	}
}

// older is a device that passes on what one has, but for what older ones do not know.
func older(t *testing.T, s *site) (addr string) {
	t.Helper()
	to := s.devices[0].Peers.Addr()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: peerstest.TLS(t, s.ca, "older")}}
	t.Cleanup(client.CloseIdleConnections)
	return peerstest.Serve(t, s.ca, "older", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/documents/") {
			http.NotFound(w, r)
			return
		}
		resp, err := client.Get("https://" + to + r.URL.Path)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		if n := resp.Header.Get("Content-Length"); n != "" {
			w.Header().Set("Content-Length", n)
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // who is gone asks again
	})
}

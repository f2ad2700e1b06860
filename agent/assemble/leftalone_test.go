package assemble

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/topics"
)

// TestASourceThatWantsToBeLeftAloneKeepsNobodyFromPeers: whether it says so at once, or
// when some was fetched; and also if they have nothing yet.
func TestASourceThatWantsToBeLeftAloneKeepsNobodyFromPeers(t *testing.T) {
	for name, begun := range map[string]bool{"at once": false, "in the middle": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			data := noise(12, 4<<20)
			a := o.release(data, false)
			s := newSite(t, o, 2, nil)
			d := s.devices[1]
			d.Again = 50 * time.Millisecond
			if begun {
				half(d, a)
			}
			had := d.have
			// Another source, which it does not know, has what this one does not give.
			other := newOrigin(t)
			other.release(data, false)
			s.devices[0].Client = newDevice(t, other.URL).Client
			refused := make(chan struct{}, 100)
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusServiceUnavailable)
				refused <- struct{}{}
				return true
			})
			before := o.asked()
			ended := make(chan error, 1)
			go func() { ended <- d.fetch(a) }()
			<-refused
			s.devices[0].must(a, data)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			d.holds(data)
			if n := o.asked() - before; n != 1 || d.last.Received() != d.last.Peer || d.last.Peer < a.Length-had {
				t.Errorf("the source was asked %d times: %+v", n, d.last)
			}
		})
	}
}

// TestWhatPeersBringMeanwhileClosesNoWay: a source that had no time is asked again for the
// packed blocks, when peers have nothing more.
func TestWhatPeersBringMeanwhileClosesNoWay(t *testing.T) {
	o, other := newOrigin(t), newOrigin(t)
	data := text(15, 4<<20)
	a := o.release(data, true)
	other.release(data, true)
	s := newSite(t, o, 2, nil)
	d := s.devices[1]
	d.Again = 20 * time.Millisecond
	s.devices[0].Client = newDevice(t, other.URL).Client
	refused, once := make(chan struct{}), sync.Once{}
	var had atomic.Int64 // how much of it the device has
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		// However long it takes until half of it has come from the other device.
		if !strings.HasPrefix(r.URL.Path, "/packs/") || had.Load() > a.Length/2 {
			return false
		}
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		once.Do(func() { close(refused) })
		return true
	})
	ended := make(chan error, 1)
	go func() {
		ended <- d.Artifact(t.Context(), a, d.path, func(have int64, x topics.Transfer) {
			d.have, d.last = have, x
			had.Store(have)
		})
	}()
	<-refused
	half(s.devices[0], a)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.holds(data)
	if d.last.Peer < a.Length/2 || d.last.Packed == 0 || d.last.Full > 0 {
		t.Errorf("%+v", d.last)
	}
}

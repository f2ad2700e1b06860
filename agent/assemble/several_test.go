package assemble

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"testing"

	"groundswell/agent/fetch"
	"groundswell/internal/delta"
	"groundswell/internal/devstack/devtest"
)

// nobody is a source that is not there.
func nobody(t *testing.T) string {
	t.Helper()
	return "http://" + devtest.FreeAddresses(t, 1)[0]
}

// TestWhoIsAwayBlocksNoWay: of two sources one is not there or has no time, and the other has
// what is of no use.
func TestWhoIsAwayBlocksNoWay(t *testing.T) {
	old, data, good := editedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	for _, s := range head.Segments {
		bad[s.Offset+s.Length/2] ^= 0x55
	}
	busy := newOrigin(t)
	busy.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	for away, base := range map[string]string{"not there": nobody(t), "busy": busy.URL} {
		for name, prepare := range map[string]func(o *origin) (fetch.Artifact, []byte){
			"a delta that makes something else": func(o *origin) (fetch.Artifact, []byte) {
				a := o.release(data, true)
				o.delta(&a, old, data, good)
				o.objects["artifacts/"+sum(good)] = object{bad, sum(good)}
				return a, data
			},
			"no pack": func(o *origin) (fetch.Artifact, []byte) {
				data := text(3, 3<<20)
				a := o.release(data, true)
				path, _ := o.packOf(a.SHA256)
				delete(o.objects, path[1:])
				return a, data
			},
		} {
			t.Run(away+", "+name, func(t *testing.T) {
				o := newOrigin(t)
				a, data := prepare(o)
				newDevice(t, base, o.URL).must(a, data)
				newDevice(t, o.URL, base).must(a, data)
			})
		}
	}
}

// TestWhoCompletesWhatAnotherBeganIsNotBlamed: one source sends a wrong byte and hangs up.
func TestWhoCompletesWhatAnotherBeganIsNotBlamed(t *testing.T) {
	data := noise(9, 4<<20)
	bad, good := newOrigin(t), newOrigin(t)
	a := good.release(data, false)
	for name, there := range good.objects {
		bad.objects[name] = there
	}
	var times atomic.Int32
	bad.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+a.SHA256 {
			return false
		}
		times.Add(1)
		from, to := askedFor(r)
		promise(w, a.SHA256, from, to, len(data))
		_, _ = w.Write([]byte{data[from] ^ 1})
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	d := newDevice(t, bad.URL, good.URL)
	d.must(a, data)
	if wrong := d.last.Full - int64(len(data)); wrong > 1<<20 {
		t.Errorf("%+v, the bad one was asked %d times", d.last, times.Load())
	}
}

// TestADeltaThatComesByPiecesIsNotLeft: each answer is cut short, and brings something.
func TestADeltaThatComesByPiecesIsNotLeft(t *testing.T) {
	old, data, good := editedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	o := newOrigin(t)
	a := o.release(data, true)
	o.delta(&a, old, data, good)
	piece := int(head.Segments[0].Length) / 6
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		from, to := askedFor(r)
		if r.URL.Path != "/artifacts/"+sum(good) || from == 0 {
			return false
		}
		promise(w, sum(good), from, to, len(good))
		_, _ = w.Write(good[from:min(to, from+piece)])
		if from+piece < to {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		return true
	})
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last.Packed+d.last.Full > 0 || d.last.Delta != int64(len(good)) {
		t.Errorf("%+v by a delta of %d bytes", d.last, len(good))
	}
}

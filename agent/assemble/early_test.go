package assemble

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/fetch"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
	"groundswell/topics"
)

// ranged notes which ranges of an artifact's path are asked for.
func (o *origin) ranged(digest string) (ranges func() []string) {
	var mu sync.Mutex
	var list []string
	o.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, digest) {
			mu.Lock()
			defer mu.Unlock()
			list = append(list, r.Header.Get("Range"))
		}
		return false
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}

// slightly is an old version and a new one that a few hundred bytes make of it.
func slightly() (old, data []byte) {
	old = noise(21, 3<<20)
	data = bytes.Clone(old)
	for i := 0; i < len(data); i += 1 << 20 {
		data[i]++
	}
	return old, data
}

// TestNothingOfADeltaIsFetchedTwice: what came with its head is part of the units.
func TestNothingOfADeltaIsFetchedTwice(t *testing.T) {
	small, smallData := slightly()
	large, largeData := shifted()
	for name, pair := range map[string]struct{ old, data []byte }{"all comes with the head": {small, smallData}, "some does": {large, largeData}} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(pair.data, true)
			raw := encode(t, pair.old, pair.data, delta.Zstd)
			o.delta(&a, pair.old, pair.data, raw)
			ranges := o.ranged(sum(raw))
			d := newDevice(t, o.URL)
			d.must(a, pair.data)
			if d.last.Delta != int64(len(raw)) || d.last.Packed+d.last.Full != 0 {
				t.Errorf("%+v, by a delta of %d bytes: %v", d.last, len(raw), ranges())
			}
			if want := 1; len(raw) <= headGuess && len(ranges()) != want {
				t.Errorf("asked for %v of %d bytes", ranges(), len(raw))
			}
		})
	}
}

// TestWhatCameWithAHeadIsThereAfterAnInterruption.
func TestWhatCameWithAHeadIsThereAfterAnInterruption(t *testing.T) {
	old, data := slightly()
	o := newOrigin(t)
	a := o.release(data, true)
	raw := encode(t, old, data, delta.Zstd)
	o.delta(&a, old, data, raw)
	d := newDevice(t, o.URL)
	r := newRun(d.Downloads, a, d.path, new(topics.Transfer))
	object := fetch.Object{Path: "artifacts/" + sum(raw), Tag: sum(raw), Length: int64(len(raw))}
	accept := func(raw []byte) error {
		_, err := delta.ReadHead(bytes.NewReader(raw))
		return err
	}
	if _, err := r.head(t.Context(), object, delta.MaxHead+int64(delta.HeadBegin), delta.HeadLength, accept); err != nil {
		t.Fatal(err)
	}
	ranges := o.ranged(sum(raw))
	d.must(a, data)
	if len(ranges()) != 0 || d.last.Delta != 0 {
		t.Errorf("asked for %v: %+v", ranges(), d.last)
	}
}

// TestWrongBytesThatCameWithAHeadAreFetchedAnew: they cost themselves, and not the delta.
func TestWrongBytesThatCameWithAHeadAreFetchedAnew(t *testing.T) {
	f := twoVersions(t)
	o := newOrigin(t)
	a := o.release(f.data, true)
	o.expanded(&a, f.old, f.data, f.through, f.plain)
	head, err := expand.ReadHead(f.through)
	if err != nil || head.Units[0].Offset >= headGuess || head.Units[0].Length == 0 {
		t.Fatalf("unit 0 does not come with the head: %+v, %v", head.Units[0], err)
	}
	wrong := bytes.Clone(f.through)
	wrong[head.Units[0].Offset] ^= 1
	var times atomic.Int32
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+sum(f.through) || !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			return false
		}
		times.Add(1)
		w.Header().Set("ETag", `"`+sum(f.through)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(wrong))
		return true
	})
	d := newDevice(t, o.URL)
	d.must(a, f.data)
	if times.Load() != 1 || d.last.Packed+d.last.Full > 0 || d.last.Delta > 2*int64(len(f.through)) {
		t.Errorf("%+v, by a delta of %d bytes; it began %d times", d.last, len(f.through), times.Load())
	}
}

func TestEarlyBytes(t *testing.T) {
	e := early{10, []byte("abcdef"), several}
	for _, test := range []struct {
		from, to int64
		want     string
	}{{9, 12, ""}, {10, 12, "ab"}, {12, 100, "cdef"}, {15, 16, "f"}, {16, 20, ""}, {10, 10, ""}, {20, 30, ""}} {
		if got := string(e.until(test.from, test.to)); got != test.want {
			t.Errorf("%d to %d: %q, want %q", test.from, test.to, got, test.want)
		}
	}
	if rest := e.behind(12); rest.from != 12 || string(rest.data) != "cdef" {
		t.Errorf("%+v", rest)
	}
	if rest := e.behind(16); len(rest.data) != 0 {
		t.Errorf("%+v", rest)
	}
	if got := (early{}).until(0, 10); got != nil {
		t.Errorf("%q of nothing", got)
	}
}

package assemble

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// delta stores a delta from old as the one of artifact a, and pins it.
func (o *origin) delta(a *fetch.Artifact, old, data []byte, raw []byte) {
	o.t.Helper()
	a.Seed = runs(o.t, old)
	list := topics.DeltaIndex{Schema: topics.Schema, Artifact: sum(data), Deltas: []topics.Delta{
		{From: sum([]byte("another one")), Document: topics.Document{Length: 3, SHA256: sum([]byte("one"))}},
		{From: sum(old), Document: o.put(raw)},
	}}
	encoded, err := topics.Encode(list)
	if err != nil {
		o.t.Fatal(err)
	}
	pin := o.put(encoded)
	a.Deltas = &pin
}

func encode(t testing.TB, old, data []byte, coder delta.Coder) []byte {
	t.Helper()
	var raw bytes.Buffer
	if err := delta.Encode(t.Context(), &raw, old, data, delta.Options{Ends: indexOf(t, data).Segments(), Coder: coder}); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// shifted is an old version and a new one, in which every block is another one though
// few bytes are.
func shifted() (old, data []byte) {
	old = noise(20, 3<<20)
	data = slices.Clone(old)
	for i := 0; i < len(data); i += 10_000 {
		data[i]++
	}
	return old, data
}

// pair is an old version and a new one with their delta, which many tests use and none changes.
type pair struct {
	once            sync.Once
	old, data, good []byte
}

// of makes it, once, of versions.
func (p *pair) of(t *testing.T, versions func() (old, data []byte)) (old, data, good []byte) {
	t.Helper()
	p.once.Do(func() {
		p.old, p.data = versions()
		p.good = encode(t, p.old, p.data, delta.Mixed)
	})
	return p.old, p.data, p.good
}

var shiftedPair, editedPair pair

func shiftedOnce(t *testing.T) (old, data, good []byte) {
	t.Helper()
	return shiftedPair.of(t, shifted)
}

func TestADeltaIsTakenWhenItIsSmaller(t *testing.T) {
	old, data, raw := shiftedOnce(t)
	o := newOrigin(t)
	a := o.release(data, true)
	o.delta(&a, old, data, raw)
	tables := o.tables()
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last.Delta == 0 || d.last.Delta > int64(len(raw))+headGuess || d.last.Packed+d.last.Full != 0 || d.last.Received() > 200_000 {
		t.Errorf("%+v, a delta of %d", d.last, len(raw))
	}
	if n := tables.Load(); n != 0 {
		t.Errorf("it was asked %d times how long packed blocks are, of which none is shorter than the delta", n)
	}
}

// tables counts how often the table of a pack is asked for.
func (o *origin) tables() *atomic.Int32 {
	var n atomic.Int32
	o.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/packs/") && strings.HasSuffix(r.URL.Path, "/table") {
			n.Add(1)
		}
		return false
	})
	return &n
}

// TestADearDeltaIsNotTaken: packed blocks are shorter.
func TestADearDeltaIsNotTaken(t *testing.T) {
	old, data := noise(20, 3<<20), text(21, 3<<20)
	o := newOrigin(t)
	a := o.release(data, true)
	var raw bytes.Buffer
	if err := delta.Encode(t.Context(), &raw, old, noise(22, len(data)), delta.Options{Ends: indexOf(t, data).Segments()}); err != nil {
		t.Fatal(err)
	}
	o.delta(&a, old, data, raw.Bytes())
	tables := o.tables()
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last.Delta > headGuess || d.last.Packed == 0 || d.last.Full != 0 || tables.Load() != 1 {
		t.Errorf("%+v, %d tables", d.last, tables.Load())
	}
}

// TestASpoiltDeltaCostsSegments: what it does not make right comes packed, or full. The
// decoder is never trusted, whatever it is given.
func TestASpoiltDeltaCostsSegments(t *testing.T) {
	old, data, good := shiftedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int64) []byte {
		raw := slices.Clone(good)
		raw[at] ^= 0x55
		return raw
	}
	random := rand.New(rand.NewPCG(1, 1))
	for name, c := range map[string]struct {
		raw  []byte
		most int64 // bytes of it that are fetched
	}{
		"a wrong byte in the second segment": {flip(head.Segments[1].Offset + head.Segments[1].Length/2), int64(len(good)) + headGuess},
		"nothing but noise":                  {noise(1, len(good)), headGuess},
		"a head of another version":          {flip(3), headGuess},
		"a wrong byte in the head":           {flip(head.Length - 1), int64(len(good)) + headGuess},
		"cut short":                          {good[:len(good)/2], int64(len(good))},
		"of something else":                  {encode(t, noise(1, len(old)), noise(2, len(data)), delta.Zstd), 2 * int64(len(data))},
		"from something shorter":             {encode(t, old[:1<<20], data, delta.Zstd), headGuess + head.Length},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			o.delta(&a, old, data, c.raw)
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Delta > c.most || d.last.Packed+d.last.Full == 0 {
				t.Errorf("%+v", d.last)
			}
		})
	}
	for range 10 { // anything
		raw := slices.Clone(good)
		for range 1 + random.IntN(5) {
			raw[random.IntN(len(raw))] = byte(random.IntN(256))
		}
		o := newOrigin(t)
		a := o.release(data, false)
		o.delta(&a, old, data, raw)
		newDevice(t, o.URL).must(a, data)
	}
}

// TestADeltaIndexThatIsNoneIsDoneWithout.
func TestADeltaIndexThatIsNoneIsDoneWithout(t *testing.T) {
	old, data, raw := shiftedOnce(t)
	for name, spoil := range map[string]func(o *origin, a *fetch.Artifact){
		"gone":         func(_ *origin, a *fetch.Artifact) { a.Deltas.SHA256 = sum([]byte("gone")) },
		"no document":  func(o *origin, a *fetch.Artifact) { pin := o.put([]byte("{}")); a.Deltas = &pin },
		"of another":   func(o *origin, a *fetch.Artifact) { o.delta(a, old, old, raw) },
		"nothing runs": func(_ *origin, a *fetch.Artifact) { a.Seed = nil },
		"unreadable": func(_ *origin, a *fetch.Artifact) {
			a.Seed.Open = func() (fetch.ReadAtCloser, error) { return nil, block.ErrWrong }
		},
		"the delta is gone": func(o *origin, _ *fetch.Artifact) {
			o.mu.Lock()
			defer o.mu.Unlock()
			delete(o.objects, "artifacts/"+sum(raw))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, false)
			o.delta(&a, old, data, raw)
			spoil(o, &a)
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Delta != 0 || d.last.Full != int64(len(data)) {
				t.Errorf("%+v", d.last)
			}
		})
	}
}

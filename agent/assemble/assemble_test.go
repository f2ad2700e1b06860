package assemble

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/fetch"
	"groundswell/agent/wake"
	"groundswell/topics"
)

func TestWithoutAnIndexTheWholeIsFetched(t *testing.T) {
	data := noise(1, 300_000)
	o := newOrigin(t)
	a := o.release(data, false)
	a.Index = nil
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last != (topics.Transfer{Full: int64(len(data))}) {
		t.Errorf("%+v", d.last)
	}
}

func TestBlocksAreFetchedFullWithoutAPack(t *testing.T) {
	data := noise(1, 3<<20)
	o := newOrigin(t)
	a := o.release(data, false)
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last != (topics.Transfer{Full: int64(len(data)), Index: a.Index.Length}) {
		t.Errorf("%+v", d.last)
	}
}

func TestPackedBlocksAreFetchedWhenTheyAreSmaller(t *testing.T) {
	data := append(text(1, 2<<20), noise(2, 2<<20)...)
	o := newOrigin(t)
	d := newDevice(t, o.URL)
	d.must(o.release(data, true), data)
	if d.last.Packed == 0 || d.last.Received() > 2<<20+2<<20/3 || d.last.Local != 0 {
		t.Errorf("%+v", d.last)
	}
}

// TestWhatRunsIsNotFetched: nothing of what the device has comes over the network.
func TestWhatRunsIsNotFetched(t *testing.T) {
	old := noise(3, 8<<20)
	data := slices.Concat(old[:3<<20], noise(4, 5000), old[3<<20:])
	o := newOrigin(t)
	a := o.release(data, true)
	a.Seed = runs(t, old)
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last.Local < 7<<20 || d.last.Local+d.last.Packed+d.last.Full < int64(len(data)) || d.last.Packed+d.last.Full > 1<<20 {
		t.Errorf("%+v", d.last)
	}
}

// TestWhatRunsMayHaveChanged since the device knew what it holds, and while it is read.
func TestWhatRunsMayHaveChanged(t *testing.T) {
	old := noise(3, 4<<20)
	o := newOrigin(t)
	a := o.release(old, false)
	changed := slices.Clone(old)
	copy(changed[1<<20:], "written by who runs there")
	a.Seed = runs(t, changed)
	a.Seed.SHA256 = sum(old)
	opened, left := a.Seed.Open, len(old)
	a.Seed.Open = func() (fetch.ReadAtCloser, error) {
		file, err := opened()
		return &moody{ReadAtCloser: file, from: 2 << 20, left: &left}, err
	}
	d := newDevice(t, o.URL)
	d.must(a, old)
	if d.last.Full < 1<<20 || d.last.Local < 1<<20 {
		t.Errorf("%+v", d.last)
	}
}

// moody reads something else from an offset on, after so many bytes were read.
type moody struct {
	fetch.ReadAtCloser
	from int64
	left *int
}

func (m *moody) ReadAt(p []byte, at int64) (int, error) {
	n, err := m.ReadAtCloser.ReadAt(p, at)
	if *m.left -= n; *m.left < 0 && at >= m.from {
		clear(p)
	}
	return n, err
}

// TestWholeBlocksStayOverAnInterruption, and what is no whole block is cut off.
func TestWholeBlocksStayOverAnInterruption(t *testing.T) {
	data := noise(5, 4<<20)
	o := newOrigin(t)
	a := o.release(data, false)
	for name, there := range map[string][]byte{
		"half":                      data[:2<<20],
		"all":                       data,
		"too much":                  append(slices.Clone(data), 1, 2, 3),
		"half and something else":   slices.Concat(data[:2<<20], noise(9, 1<<20)),
		"half, with a wrong middle": slices.Concat(data[:1<<20], []byte{^data[1<<20]}, data[1<<20+1:2<<20]),
		"something else":            noise(9, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, o.URL)
			if err := os.WriteFile(d.path, there, 0o600); err != nil {
				t.Fatal(err)
			}
			same := int64(0)
			for same < int64(min(len(there), len(data))) && there[same] == data[same] {
				same++
			}
			d.must(a, data)
			if most := int64(len(data)) - same + 256<<10; d.last.Full > most {
				t.Errorf("%d bytes were fetched of %d", d.last.Full, most)
			}
		})
	}
}

// TestAWrongSourceIsLeftForTheNext after three wrong blocks.
func TestAWrongSourceIsLeftForTheNext(t *testing.T) {
	data := noise(6, 4<<20)
	bad, good := newOrigin(t), newOrigin(t)
	a := good.release(data, false)
	wrong := slices.Clone(data)
	for i := range wrong {
		wrong[i] ^= 1
	}
	bad.release(data, false)
	bad.mu.Lock()
	bad.objects["artifacts/"+a.SHA256] = object{wrong, a.SHA256}
	bad.mu.Unlock()
	d := newDevice(t, bad.URL, good.URL)
	d.must(a, data)
	if d.last.Full > int64(len(data))+maxStrikes*256<<10 {
		t.Errorf("%+v", d.last)
	}
	alone := newDevice(t, bad.URL)
	if err := alone.fetch(a); !errors.Is(err, fetch.ErrWrongBytes) {
		t.Errorf("only wrong blocks: %v", err)
	}
	if info, err := os.Stat(alone.path); err != nil || info.Size() != 0 {
		t.Errorf("something of them is there: %v %v", info, err)
	}
}

// TestWithoutRangesTheWholeIsFetched from a source that always sends everything.
func TestWithoutRangesTheWholeIsFetched(t *testing.T) {
	data := noise(7, 3<<20)
	o := newOrigin(t)
	a := o.release(data, false)
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("Range")
		return false
	})
	d := newDevice(t, o.URL)
	if err := os.WriteFile(d.path, data[:1<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	d.must(a, data)
	if d.last.Full != int64(len(data)) { // with what was there, which came again
		t.Errorf("%+v", d.last)
	}
}

// TestOneWithoutRangesIsNoReasonForTheWhole, as long as another one brings blocks, though that
// fails now and then.
func TestOneWithoutRangesIsNoReasonForTheWhole(t *testing.T) {
	data := noise(7, 16<<20)
	without, good := newOrigin(t), newOrigin(t)
	a := without.release(data, false)
	good.release(data, false)
	var refused, answered, wholes atomic.Int32
	of := func(r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+sum(data) {
			return false
		}
		if asked := r.Header.Get("Range"); asked == "" || strings.HasSuffix(asked, "-") { // up to its end
			wholes.Add(1)
		}
		return true
	}
	without.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !of(r) || r.Header.Get("Range") == "" {
			return false
		}
		refused.Add(1)
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return true
	})
	good.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !of(r) {
			return false
		}
		switch n := answered.Add(1); {
		case n <= maxStrikes: // it is cut, and something has come
			from, to := askedFor(r)
			promise(w, sum(data), from, to, len(data))
			_, _ = w.Write(data[from : from+1<<20])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case n == maxStrikes+1:
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	})
	newDevice(t, without.URL, good.URL).must(a, data)
	if refused.Load() <= maxStrikes || answered.Load() <= maxStrikes+1 || wholes.Load() > 0 {
		t.Errorf("%d ranges refused, %d asked of the other, the whole %d times", refused.Load(), answered.Load(), wholes.Load())
	}
}

// TestABadPackIsLeftForTheArtifact: tables that lie, blocks that are none, packs that
// are gone.
func TestABadPackIsLeftForTheArtifact(t *testing.T) {
	data := text(8, 3<<20)
	for name, spoil := range map[string]func(o *origin, table, pack string){
		"no table":       func(o *origin, table, _ string) { o.objects[table] = object{[]byte("GSPT"), "x"} },
		"an endless one": func(o *origin, table, _ string) { o.objects[table] = object{make([]byte, 10<<20), "x"} },
		"no pack":        func(o *origin, _, pack string) { delete(o.objects, pack) },
		"a shorter pack": func(o *origin, _, pack string) {
			o.objects[pack] = object{o.objects[pack].data[:1000], o.objects[pack].tag}
		},
		"wrong blocks": func(o *origin, _, pack string) {
			o.objects[pack] = object{noise(1, len(o.objects[pack].data)), o.objects[pack].tag}
		},
		"another's table": func(o *origin, table, _ string) { o.objects[table] = object{append([]byte("GSPT\x01"), 3, 3, 3), "x"} },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			table, pack := "packs/"+a.SHA256+"/table", ""
			o.mu.Lock()
			for path := range o.objects {
				if strings.HasPrefix(path, "packs/") && path != table {
					pack = path
				}
			}
			spoil(o, table, pack)
			o.mu.Unlock()
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Full != int64(len(data)) || d.last.Packed > maxStrikes*256<<10 {
				t.Errorf("%+v", d.last)
			}
		})
	}
}

// TestAnIndexThatIsNoneIsDoneWithout: it was signed, so that is the release's matter.
func TestAnIndexThatIsNoneIsDoneWithout(t *testing.T) {
	data := noise(9, 300_000)
	o := newOrigin(t)
	a := o.release(data, false)
	garbage, gone := o.put([]byte("no index")), topics.Document{Length: 10, SHA256: sum([]byte("gone"))}
	other := o.put(indexOf(t, noise(10, 300_000)).Bytes())
	for name, pin := range map[string]*topics.Document{"garbage": &garbage, "gone": &gone, "of another one": &other} {
		a.Index = pin
		d := newDevice(t, o.URL)
		err := d.fetch(a)
		if name == "of another one" { // right blocks are wrong by it
			if !errors.Is(err, fetch.ErrWrongBytes) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		d.holds(data)
	}
}

// TestABudgetIsKeptToAUnit: each wake brings at least one block, and not more than one
// above what it may.
func TestABudgetIsKeptToAUnit(t *testing.T) {
	data := noise(11, 2<<20)
	o := newOrigin(t)
	a := o.release(data, false)
	for _, budget := range []int64{1, 500_000} {
		awake := wake.New(wake.Limits{Bytes: budget})
		d := newDevice(t, o.URL)
		d.Client = fetch.New(fetch.Config{Sources: func() []string { return []string{o.URL} }, Wake: awake})
		for last := int64(-1); ; {
			awake.Begin()
			before := d.have
			err := d.fetch(a)
			if err == nil {
				break
			}
			if !errors.Is(err, wake.ErrSpent) {
				t.Fatal(err)
			}
			if d.have == last || d.have-before > budget+256<<10 {
				t.Fatalf("from %d to %d with a budget of %d", before, d.have, budget)
			}
			last = d.have
		}
		d.holds(data)
	}
}

func TestAnEndedDownloadEnds(t *testing.T) {
	data := noise(12, 1<<20)
	o := newOrigin(t)
	a := o.release(data, true)
	ctx, cancel := context.WithCancel(t.Context())
	o.set(func(http.ResponseWriter, *http.Request) bool { cancel(); return false })
	d := newDevice(t, o.URL)
	if err := d.Artifact(ctx, a, d.path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestABusySourceIsLeftAlone for as long as it says, while the others are asked.
func TestABusySourceIsLeftAlone(t *testing.T) {
	data := noise(13, 4<<20)
	old := slices.Clone(data)
	for i := 0; i < len(old); i += 700_000 { // so that it takes several requests
		old[i]++
	}
	busy, good := newOrigin(t), newOrigin(t)
	busy.release(data, false)
	a := good.release(data, false)
	a.Seed = runs(t, old)
	var asked, others atomic.Int32
	busy.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" {
			return false
		}
		asked.Add(1)
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	good.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			others.Add(1)
		}
		return false
	})
	d := newDevice(t, busy.URL, good.URL)
	d.must(a, data)
	if asked.Load() != 1 || others.Load() < 3 {
		t.Errorf("the busy source was asked %d times, the other one %d times", asked.Load(), others.Load())
	}
}

// TestAShutWindowStopsBehindABlock: one that is on its way is kept, and what is asked for
// already is not waited for.
func TestAShutWindowStopsBehindABlock(t *testing.T) {
	data := noise(14, 4<<20)
	o := newOrigin(t)
	a := o.release(data, false)
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	clk := clock.New(now, func() time.Time { return now })
	allowed := allowance.New(allowance.Config{Windows: []topics.Window{{Start: "06:00", End: "14:00"}}}, "camera-1", clk, slog.New(slog.DiscardHandler))
	d := newDevice(t, o.URL)
	d.Client = fetch.New(fetch.Config{Sources: func() []string { return []string{o.URL} }, Allowance: allowed})
	defer d.Client.Close()
	tell := func(have int64, transfer topics.Transfer) {
		if d.have, d.last = have, transfer; have > 1<<20 {
			now = time.Date(2026, 12, 1, 14, 0, 0, 0, time.UTC)
		}
	}
	err := d.Artifact(t.Context(), a, d.path, tell)
	if !errors.Is(err, wake.ErrSpent) || d.have > 1<<20+256<<10 {
		t.Fatalf("%d bytes of %d: %v", d.have, len(data), err)
	}
	if d.last.Full+d.last.Packed != d.have {
		t.Errorf("fetched %+v for %d bytes", d.last, d.have)
	}
	began := d.have
	now = now.Add(20 * time.Hour)
	if err := d.fetch(a); err != nil {
		t.Fatal(err)
	}
	if d.holds(data); d.last.Full+d.last.Packed != int64(len(data))-began {
		t.Errorf("fetched %+v for the rest", d.last)
	}
}

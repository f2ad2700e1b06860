package assemble

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/fetch"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
	"groundswell/internal/expand/find"
	"groundswell/topics"
)

// compressed is what the program gzip makes of data.
func compressed(t testing.TB, data []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gzip", "-nc6", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// letters is content of which nearly half is saved by compression, with few bytes of each
// version in it.
func letters(version byte, n int) []byte {
	data := noise(9, n)
	for i := range data {
		if data[i] &= 0x1f; i%20_000 == 7 {
			data[i] = 0x20 + version
		}
	}
	return data
}

// fixture is two versions of a firmware with a large compressed stream and some small
// ones, and the deltas between them.
type fixture struct{ old, data, through, plain []byte }

var firmwares struct {
	sync.Once
	fixture
}

func twoVersions(t testing.TB) fixture {
	t.Helper()
	firmwares.Do(func() {
		make := func(version byte) []byte {
			// What is another in each comes behind the head, and is more than comes with that.
			all := [][]byte{noise(10+version, 4*headGuess), noise(1, 200_000), compressed(t, letters(version, 3<<20))}
			for i := range 8 {
				all = append(all, compressed(t, letters(version, 100_000+i)))
			}
			return slices.Concat(append(all, noise(2, 50_000))...)
		}
		f := &firmwares.fixture
		f.old, f.data = make(1), make(2)
		f.through, f.plain = lookThrough(t, f.old, f.data), encode(t, f.old, f.data, delta.Zstd)
	})
	return firmwares.fixture
}

func lookThrough(t testing.TB, old, data []byte) []byte {
	t.Helper()
	var raw bytes.Buffer
	if err := find.Encode(t.Context(), &raw, old, data, find.Options{Ends: indexOf(t, data).Segments(), Coder: delta.Zstd}); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

// expanded stores a delta that looks through compression, and one that does not unless it
// is nil.
func (o *origin) expanded(a *fetch.Artifact, old, data, raw, plain []byte) {
	o.t.Helper()
	a.Seed = runs(o.t, old)
	list := topics.DeltaIndex{Schema: topics.Schema, Artifact: sum(data), Deltas: []topics.Delta{}, Expanded: []topics.Delta{
		{From: sum([]byte("another one")), Document: topics.Document{Length: 3, SHA256: sum([]byte("one"))}},
		{From: sum(old), Document: o.put(raw)},
	}}
	if plain != nil {
		list.Deltas = append(list.Deltas, topics.Delta{From: sum(old), Document: o.put(plain)})
	}
	encoded, err := topics.Encode(list)
	if err != nil {
		o.t.Fatal(err)
	}
	pin := o.put(encoded)
	a.Deltas = &pin
}

func TestCompressionIsLookedThrough(t *testing.T) {
	f := twoVersions(t)
	old, data, raw := f.old, f.data, f.through
	o := newOrigin(t)
	a := o.release(data, true)
	o.expanded(&a, old, data, raw, f.plain)
	d := newDevice(t, o.URL)
	d.must(a, data)
	// The same bytes may be in two answers only where a head is longer than it was thought.
	if got := d.last; got.Delta == 0 || got.Delta > int64(len(raw))+headGuess || got.Packed+got.Full != 0 || got.Received() > int64(len(data))/10 {
		t.Errorf("%+v, a delta of %d", got, len(raw))
	}
}

// begun is how many bytes data begins with that are there before anything is asked for.
func begun(t *testing.T, old, data []byte) (n int64) {
	t.Helper()
	there := map[[32]byte]bool{}
	for _, b := range indexOf(t, old).Blocks {
		there[b.SHA256] = true
	}
	for _, b := range indexOf(t, data).Blocks {
		if !there[b.SHA256] {
			break
		}
		n += int64(b.Length)
	}
	return n
}

// TestWithoutRoomThePlainDeltaIsTaken.
func TestWithoutRoomThePlainDeltaIsTaken(t *testing.T) {
	f := twoVersions(t)
	old, data, raw := f.old, f.data, f.through
	head, err := expand.ReadHead(raw)
	if err != nil {
		t.Fatal(err)
	}
	if head.Scratch() == 0 {
		t.Fatal("no stream is large")
	}
	need := head.Scratch() + int64(len(raw)) + int64(len(data)) + spare - begun(t, old, data)
	for _, c := range []struct {
		free    int64
		through bool
	}{{need, true}, {need - 1, false}} {
		o := newOrigin(t)
		a := o.release(data, false)
		o.expanded(&a, old, data, raw, f.plain)
		d := newDevice(t, o.URL)
		d.Free = func(dir string) (int64, error) {
			if dir != filepath.Dir(d.path) {
				t.Errorf("asked about %s", dir)
			}
			return c.free, nil
		}
		d.must(a, data)
		if through := d.last.Received() < int64(len(data))/10; through != c.through {
			t.Errorf("%d bytes free: %+v", c.free, d.last)
		}
	}
}

const (
	wrongUnit  = "a wrong byte in the second unit"
	wrongBegin = "of something with another begin"
)

// TestASpoiltLookThroughCostsLittle: what is not made right comes by the plain delta, or
// packed, or full.
func TestASpoiltLookThroughCostsLittle(t *testing.T) {
	f := twoVersions(t)
	old, data, good := f.old, f.data, f.through
	head, err := expand.ReadHead(good)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int64) []byte {
		raw := slices.Clone(good)
		raw[at] ^= 0x55
		return raw
	}
	other := slices.Clone(old)
	other[1_000_000] ^= 0x55 // inside the large stream
	almostData := slices.Clone(data)
	almostData[190_000] ^= 0x55 // in the first block that is not there already
	var almost bytes.Buffer
	if err := find.Encode(t.Context(), &almost, old, almostData, find.Options{Ends: indexOf(t, data).Segments()}); err != nil {
		t.Fatal(err)
	}
	begun := map[string]bool{wrongUnit: true, wrongBegin: true} // before it was found out
	for name, raw := range map[string][]byte{
		wrongUnit:                   flip(head.Units[1].Offset + head.Units[1].Length/2),
		wrongBegin:                  almost.Bytes(),
		"nothing but noise":         noise(1, len(good)),
		"a head of another version": flip(3),
		"a wrong byte in the head":  flip(head.Length / 2),
		"a wrong sum in the head":   flip(20),
		"cut short":                 good[:len(good)-int(head.Units[len(head.Units)-1].Length)-1],
		"of something else":         lookThrough(t, old, slices.Concat(data[:100_000], data)),
		"from something shorter":    lookThrough(t, old[:len(old)-1], data),
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			o.expanded(&a, old, data, raw, f.plain)
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Received() < 2*int64(len(good)) && name != wrongBegin || begun[name] && (d.last.Packed+d.last.Full > 0 || d.last.Delta < int64(len(f.plain))/20) {
				t.Errorf("%+v", d.last)
			}
		})
	}
	t.Run("something else runs", func(t *testing.T) {
		o := newOrigin(t)
		a := o.release(data, true)
		o.expanded(&a, old, data, good, nil)
		path := filepath.Join(t.TempDir(), "running")
		if err := os.WriteFile(path, other, 0o600); err != nil {
			t.Fatal(err)
		}
		a.Seed.Open = func() (fetch.ReadAtCloser, error) { return os.Open(path) }
		newDevice(t, o.URL).must(a, data)
	})
	random := rand.New(rand.NewPCG(1, 1))
	for range 10 { // anything
		raw := slices.Clone(good)
		for range 1 + random.IntN(5) {
			raw[random.IntN(len(raw))] = byte(random.IntN(256))
		}
		o := newOrigin(t)
		a := o.release(data, false)
		o.expanded(&a, old, data, raw, nil)
		newDevice(t, o.URL).must(a, data)
	}
}

// TestWhatAStreamBeganWithIsNotFetchedAgain after an interruption inside of it, unless it
// is not what it was.
func TestWhatAStreamBeganWithIsNotFetchedAgain(t *testing.T) {
	make := func(version byte) []byte {
		begin := noise(version, 200_000) // of which nothing is in the other one
		for i := range begin {
			begin[i] &= 0x3f
		}
		return compressed(t, append(begin, letters(1, 4<<20)...))
	}
	old, data := make(1), make(2)
	raw := lookThrough(t, old, data)
	head, err := expand.ReadHead(raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(head.Units) < 3 || head.Since(2) != 0 || head.Units[0].Length < 20*head.Units[2].Length {
		t.Fatalf("other units than were thought: %+v", head.Units)
	}
	o := newOrigin(t)
	a := o.release(data, false)
	o.expanded(&a, old, data, raw, nil)
	end := head.Units[1].Start + head.Units[1].Size
	for _, spoilt := range []bool{false, true} {
		d := newDevice(t, o.URL)
		killed := func() (killed bool) {
			defer func() { killed = recover() == "killed" }()
			err := d.Artifact(t.Context(), a, d.path, func(have int64, _ topics.Transfer) {
				if have >= end {
					panic("killed") // nothing is tidied up
				}
			})
			t.Errorf("it ended: %v", err)
			return false
		}
		if !killed() {
			t.Fatal("it was not killed")
		}
		if spoilt {
			spoil(t, shelf{path: d.path}.unitsPath(fetch.Object{Tag: sum(raw)}), head.Units[0].Offset+5)
		}
		d.must(a, data)
		if d.last.Full+d.last.Packed > 0 || spoilt != (d.last.Delta > head.Units[0].Length/2) {
			t.Errorf("spoilt: %v: %+v, the first unit has %d bytes", spoilt, d.last, head.Units[0].Length)
		}
	}
}

// spoil changes a byte of a file.
func spoil(t testing.TB, path string, at int64) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[at] ^= 0x55
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAWrongByteOnTheWayCostsAUnit, and not the delta.
func TestAWrongByteOnTheWayCostsAUnit(t *testing.T) {
	f := twoVersions(t)
	o := newOrigin(t)
	a := o.release(f.data, true)
	o.expanded(&a, f.old, f.data, f.through, f.plain)
	wrong := slices.Clone(f.through)
	head, err := expand.ReadHead(wrong)
	if err != nil {
		t.Fatal(err)
	}
	wrong[head.Units[1].Offset] ^= 1
	var times atomic.Int32
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+sum(f.through) || strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") || times.Add(1) > 2 {
			return false
		}
		w.Header().Set("ETag", `"`+sum(f.through)+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(wrong))
		return true
	})
	d := newDevice(t, o.URL)
	d.must(a, f.data)
	if times.Load() < 3 || d.last.Packed+d.last.Full > 0 || d.last.Delta > 4*int64(len(f.through)) {
		t.Errorf("%+v, %d bytes with what looks through, %d without", d.last, len(f.through), len(f.plain))
	}
}

// TestInterruptionsCostAUnitEach, inside streams as well: what is needed to go on was kept.
func TestInterruptionsCostAUnitEach(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 2026))
	f := twoVersions(t)
	old, data, raw := f.old, f.data, f.through
	head, err := expand.ReadHead(raw)
	if err != nil {
		t.Fatal(err)
	}
	inside := 0
	largest := max(head.Length, int64(indexLength(t, data)))
	for n, u := range head.Units {
		largest = max(largest, u.Length)
		if head.Since(n) < n {
			inside++
		}
	}
	if inside == 0 {
		t.Fatal("no unit begins inside a stream")
	}
	o := newOrigin(t)
	a := o.release(data, false)
	o.expanded(&a, old, data, raw, nil)
	undisturbed := newDevice(t, o.URL)
	undisturbed.must(a, data)
	needed := undisturbed.last.Received()
	for range max(40/fewer, 2) {
		d := newDevice(t, o.URL)
		received, happened := int64(0), 0
		for finished := false; !finished; {
			ctx, cancel := context.WithCancel(t.Context())
			o.cutAfter(random.Int64N(2 * needed))
			stop := random.Int64N(int64(len(data)))
			killed := false
			var last topics.Transfer
			err := d.Artifact(ctx, a, d.path, func(have int64, transfer topics.Transfer) {
				if last = transfer; have >= stop && !killed {
					killed = true
					happened++
					cancel()
				}
			})
			cancel()
			happened += o.uncut()
			received += last.Received()
			switch {
			case err == nil:
				finished = true
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			case random.IntN(2) == 0:
				tear(t, d.path, random)
			}
		}
		d.holds(data)
		if most := needed + int64(happened)*(largest+headGuess); received > most {
			t.Fatalf("%d bytes were received with %d interruptions, %d are needed, %d is the largest unit", received, happened, needed, largest)
		}
	}
}

func indexLength(t testing.TB, data []byte) int { return len(indexOf(t, data).Bytes()) }

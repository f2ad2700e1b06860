package assemble

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// priced is a way of which a unit takes so much.
type priced struct {
	way
	bytes, slow int64
	blocks      int // of a unit
}

func (w priced) unit(i int) unit {
	first := i / w.blocks * w.blocks
	return unit{to: w.bytes, slow: w.slow, first: first, end: first + w.blocks}
}

func TestBytesAreWeighedAgainstProcessorTimeOnBattery(t *testing.T) {
	mains, battery := (*Energy)(nil), DefaultEnergy() // 5 µJ a byte, 2/3 µJ a slow byte
	free := Energy{Radio: 5, Rate: 1000}
	dear := Energy{Radio: 100, Processor: 1000, Rate: 1_500_000} // GPRS
	const content = 3_000_000                                    // of streams: 2 J
	for _, c := range []struct {
		name                  string
		energy                *Energy
		packed, full          int64 // of a block, of which there are two
		plain, mixed, through int64 // bytes of the segment; mixed: of plain, the slow ones
		content               int64
		want                  kind
	}{
		{"mains, a small saving", mains, 600_000, 900_000, 1_000_000, 0, 900_000, content, kindExpanded},
		{"battery, a small saving", &battery, 600_000, 900_000, 1_000_000, 0, 900_000, content, kindDelta},
		{"battery, a small saving, and a radio that takes much", &dear, 600_000, 900_000, 1_000_000, 0, 900_000, content, kindExpanded},
		{"battery, a large saving", &battery, 600_000, 900_000, 1_000_000, 0, 500_000, content, kindExpanded},
		{"battery, as much as it takes", &battery, 600_000, 900_000, 1_000_000, 0, 600_000, content, kindDelta},
		{"battery, a byte less than it takes", &battery, 600_000, 900_000, 1_000_000, 0, 599_999, content, kindExpanded},
		{"battery, a small saving, nothing to make again", &battery, 600_000, 900_000, 1_000_000, 0, 999_999, 0, kindExpanded},
		{"battery, the plain one is slow as well", &battery, 600_000, 900_000, 1_000_000, 1_000_000, 700_000, content, kindExpanded},
		{"battery, processor time costs nothing", &free, 600_000, 900_000, 1_000_000, 0, 999_999, content, kindExpanded},
		{"mains, packed blocks would do nearly", mains, 600_000, 900_000, 1_150_000, 1_150_000, 1_150_000, content, kindDelta},
		{"battery, packed blocks do nearly", &battery, 600_000, 900_000, 1_150_000, 1_150_000, 1_150_000, content, kindPacked},
		{"battery, the artifact as it is does nearly", &battery, 950_000, 940_000, 1_800_000, 1_800_000, 1_800_000, content, kindFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan{
				index: block.Index{Blocks: make([]block.Block, 2)}, segments: []segment{{0, 2}}, energy: c.energy,
				local: func(block.Block) bool { return false },
				ways: map[kind]way{
					kindPacked: priced{bytes: c.packed, blocks: 1}, kindFull: priced{bytes: c.full, blocks: 1},
					kindDelta: priced{bytes: c.plain, slow: c.mixed, blocks: 2}, kindExpanded: priced{bytes: c.through, slow: c.content, blocks: 2},
				},
			}
			if got := p.choice(0, 0, ""); got != c.want {
				t.Errorf("it chooses %s, expected %s", got, c.want)
			}
		})
	}
}

var mostlyNewOnce struct {
	sync.Once
	fixture
}

// mostlyNew is a firmware of two versions with a part that differs in a few bytes, and with a
// compressed stream of which nearly all that it holds is another.
func mostlyNew(t *testing.T) fixture {
	t.Helper()
	mostlyNewOnce.Do(func() {
		make := func(version byte) []byte {
			edited, content := noise(1, 1_300_000), letters(version, 1_300_000)
			for i := 0; i < len(edited); i += 10_000 {
				edited[i] = version
			}
			other := noise(100+version, len(content)*95/100)
			for i := range other {
				content[i] = other[i] & 0x1f
			}
			return slices.Concat(edited, compressed(t, content))
		}
		f := &mostlyNewOnce.fixture
		f.old, f.data = make(1), make(2)
		f.through, f.plain = lookThrough(t, f.old, f.data), encode(t, f.old, f.data, delta.Zstd)
		if len(f.through) > len(f.plain)*99/100 || len(f.through) < len(f.plain)/2 || len(f.plain) > len(f.data)*2/3 {
			t.Fatalf("%d bytes with looking through, %d without", len(f.through), len(f.plain))
		}
	})
	return mostlyNewOnce.fixture
}

// TestOnBatteryTheDeltaIsChosenByWhatItTakes: the plain one where the other saves few bytes,
// the other where it saves many.
func TestOnBatteryTheDeltaIsChosenByWhatItTakes(t *testing.T) {
	for name, c := range map[string]struct {
		fixture
		battery, looks bool
	}{
		"mains, a small saving":   {mostlyNew(t), false, true},
		"battery, a small saving": {mostlyNew(t), true, false},
		"battery, a large saving": {twoVersions(t), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(c.data, false)
			o.expanded(&a, c.old, c.data, c.through, c.plain)
			units := o.units()
			d := newDevice(t, o.URL)
			d.Battery, d.Energy = func() bool { return c.battery }, DefaultEnergy()
			d.must(a, c.data)
			asked := units()
			if through := asked[sum(c.through)] > 0; through != c.looks || through == (asked[sum(c.plain)] > 0) {
				t.Errorf("of the delta that looks through compression %d ranges behind its head, of the plain one %d: %+v", asked[sum(c.through)], asked[sum(c.plain)], d.last)
			}
		})
	}
}

// units counts the ranges of each artifact that do not begin at its first byte.
func (o *origin) units() (counts func() map[string]int) {
	seen := map[string]int{}
	o.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if digest, ok := strings.CutPrefix(r.URL.Path, "/artifacts/"); ok && !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			o.mu.Lock()
			defer o.mu.Unlock()
			seen[digest]++
		}
		return false
	})
	return func() map[string]int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return seen
	}
}

// TestOnBatteryWhatIsDearIsTakenWhereItPays: the plain delta is not to be had. The stream is
// less trouble as it is, but what is before it comes by the other delta.
func TestOnBatteryWhatIsDearIsTakenWhereItPays(t *testing.T) {
	f := mostlyNew(t)
	o := newOrigin(t)
	a := o.release(f.data, false)
	o.expanded(&a, f.old, f.data, f.through, f.plain)
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+sum(f.plain) {
			return false
		}
		http.NotFound(w, r)
		return true
	})
	full := map[bool]int64{}
	for _, battery := range []bool{true, false} {
		d := newDevice(t, o.URL)
		d.Battery, d.Energy = func() bool { return battery }, Energy{Radio: 5, Processor: 4000, Rate: 1_500_000}
		d.must(a, f.data)
		if full[battery] = d.last.Full; d.last.Delta < headGuess || d.last.Full > int64(len(f.data))*2/3 {
			t.Errorf("battery: %v: %+v", battery, d.last)
		}
	}
	if full[true] < full[false]+500_000 {
		t.Errorf("as it is come %d bytes on battery, and %d on mains", full[true], full[false])
	}
}

// TestWhatAStreamHoldsIsCountedWhereItIsMade: by unit, together all of it; from the stream's
// begin where nothing was made before.
func TestWhatAStreamHoldsIsCountedWhereItIsMade(t *testing.T) {
	head, err := expand.ReadHead(twoVersions(t).through)
	if err != nil {
		t.Fatal(err)
	}
	w := &expanded{head: head}
	all, units, inside := int64(0), int64(0), 0
	for _, s := range head.New {
		all += s.Size
	}
	for n, u := range head.Units {
		own := w.content(u.Start, u.Start+u.Size)
		units += own
		if from := w.begin(n); from < u.Start {
			inside++
			if w.content(from, u.Start+u.Size) <= own {
				t.Errorf("unit %d of a stream that begins at %d takes no more alone", n, from)
			}
		}
	}
	if whole := w.content(0, head.NewLength); whole != all || units > all || units < all-int64(len(head.Units)+len(head.New)) || inside == 0 {
		t.Errorf("%d bytes in streams, counted %d, by units %d; %d begin inside of one", all, whole, units, inside)
	}
}

// TestUnitsThatFollowComeByOneRequest on battery as well: each takes what it takes behind the
// one before it, and not what it would take alone.
func TestUnitsThatFollowComeByOneRequest(t *testing.T) {
	f := twoVersions(t)
	head, err := expand.ReadHead(f.through)
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := expand.NewDecoder(head, bytes.NewReader(f.old), &expand.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := openKept(filepath.Join(t.TempDir(), "units"), head)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kept.f.Close() })
	index := indexOf(t, f.data)
	w := &expanded{head: head, decoder: decoder, kept: kept, segments: segmentsOf(index)}
	p := plan{
		index: index, segments: w.segments, energy: &Energy{Radio: 5, Processor: 4000, Rate: 1_500_000},
		local: func(block.Block) bool { return false }, peer: func(int) bool { return false }, stretch: func() int { return 0 },
		ways: map[kind]way{kindFull: full{"", index}, kindExpanded: w},
	}
	inside := slices.IndexFunc(head.Units, func(u expand.Unit) bool { return w.begin(slices.Index(head.Units, u)) < u.Start })
	first := w.segments[inside].first
	if s := p.next(first, 1); s.kind != kindFull {
		t.Fatalf("unit %d alone comes by %s", inside, s.kind)
	}
	// Nothing is made again behind the unit that was made last.
	if err := decoder.Unit(0, bytes.NewReader(f.through), io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{0, 1} {
		p.limit = limit
		if got, own := p.unit(kindExpanded, first, false).slow, w.content(head.Units[1].Start, head.Units[1].Start+head.Units[1].Size); inside != 1 || got < own || got > own+head.Units[1].Length {
			t.Errorf("at most %d bytes: unit 1 takes %d behind unit 0, and has %d", limit, got, own)
		}
	}
	if s := p.next(0, 0); s.kind != kindExpanded || s.end <= w.segments[inside].first {
		t.Errorf("%s from %d to %d, unit %d begins at %d", s.kind, s.first, s.end, inside, w.segments[inside].first)
	}
}

// TestWhatIsMadeOnceMoreServesTheRestOfTheStream, as far as the step brings it: a download that
// goes on inside of one does not leave the delta for that.
func TestWhatIsMadeOnceMoreServesTheRestOfTheStream(t *testing.T) {
	head := &expand.Head{Inner: &delta.Head{}, NewLength: 11_000_000, New: []expand.Stream{{At: 500_000, Length: 9_000_000, Size: 27_000_000}}}
	w := &expanded{head: head}
	for n := range int64(11) {
		head.Units = append(head.Units, expand.Unit{Offset: n * 1000, Length: 1000, Start: n * 1_000_000, Size: 1_000_000})
		w.segments = append(w.segments, segment{int(n), int(n) + 1})
	}
	for _, c := range []struct {
		unit       int
		limit      int64
		own, again int64 // content
	}{
		{0, 0, 1_500_000, 0},                  // begins before the stream
		{5, 0, 3_000_000, 13_500_000 / 9 * 2}, // 4.5 of its 9 MB are left
		{5, 1, 3_000_000, 13_500_000},         // alone
		{5, 2500, 3_000_000, 13_500_000 / 2},  // two units fit
		{5, 5000, 3_000_000, 13_500_000 / 9 * 2},
		{9, 0, 1_500_000, 25_500_000}, // the last one of it
		{10, 0, 0, 0},
	} {
		u := w.units(c.unit, c.unit, w.begin(c.unit))
		if got := w.spread(u, c.limit).slow; got < c.own+c.again-2 || got > c.own+c.again+2 {
			t.Errorf("unit %d, at most %d bytes: %d, expected %d", c.unit, c.limit, got, c.own+c.again)
		}
	}
}

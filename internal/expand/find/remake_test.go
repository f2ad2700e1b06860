package find

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// TestWaysAreNotTriedForEachStreamInVain: an image may have thousands that nobody known made.
func TestWaysAreNotTriedForEachStreamInVain(t *testing.T) {
	image := gzip(t, text(1, 50_000), "-3")
	list, err := streams(t.Context(), image, 0)
	if err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	for vain, want := range map[int]bool{0: true, patience - 1: true, patience: false, 2*patience - 2: false, 2*patience - 1: true} {
		tr := &trier{image: image, vain: vain, stream: list[0].Stream}
		if ok, err := tr.imitate(t.Context(), list[0], math.MaxInt); ok != want || err != nil {
			t.Errorf("after %d: %v, %v", vain, ok, err)
		} else if ok && tr.vain != 0 {
			t.Errorf("after one that was right %d", tr.vain)
		}
	}
	image = gzip(t, text(1, 50_000), "-6")
	if list, err = streams(t.Context(), image, 0); err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	tr := &trier{image: image, vain: patience, stream: list[0].Stream}
	if ok, err := tr.imitate(t.Context(), list[0], math.MaxInt); !ok || err != nil {
		t.Errorf("a likely way is not tried: %v", err)
	}
}

// TestAParsedFormMayTakeTooMuch: it is longer than the content, of which memory was counted
// before.
func TestAParsedFormMayTakeTooMuch(t *testing.T) {
	old, new := image(other(t, noiseText(1, 2<<20))), image(other(t, noiseText(2, 2<<20)))
	before, err := streams(t.Context(), old, 0)
	if err != nil {
		t.Fatal(err)
	}
	after, err := streams(t.Context(), new, 0)
	if err != nil {
		t.Fatal(err)
	}
	content := size(old, bare(before)) + size(new, bare(after)) + delta.LeastMemory(1)
	for memory, want := range map[int64]error{content - 1: delta.ErrMemory, content: ErrNothing, content + 32<<20: nil} {
		err := Encode(t.Context(), &bytes.Buffer{}, old, new, Options{Ends: ends(t, new), Coder: delta.Zstd, Memory: memory})
		if !errors.Is(err, want) {
			t.Errorf("%d bytes more: %v, want %v", memory-content, err, want)
		}
	}
}

// TestAParsedFormThatIsTooLongIsLeftAsItIs.
func TestAParsedFormThatIsTooLongIsLeftAsItIs(t *testing.T) {
	image := other(t, text(1, 300_000))
	list, err := streams(t.Context(), image, 0)
	if err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	for most, want := range map[int64]bool{100_000: false, 1 << 20: true} {
		tr := &trier{image: image, most: most, forms: newForms(most, allEfforts()), stream: list[0].Stream}
		if ok := tr.parse(); ok != want || ok != (tr.stream.Codec == expand.DeflateParsed) {
			t.Errorf("%d bytes: %v, codec %d", most, ok, tr.stream.Codec)
		}
	}
}

// TestWhatHasNoRoomIsLeftAsItIs: what is imitated is looked through all the same.
func TestWhatHasNoRoomIsLeftAsItIs(t *testing.T) {
	image := image(gzip(t, text(2, 1<<20)), other(t, noiseText(2, 1<<20)))
	list, err := streams(t.Context(), image, 0)
	if err != nil || len(list) != 2 {
		t.Fatal(len(list), err)
	}
	for room, want := range map[int64]int{100: 1, 1 << 20: 2} {
		made, err := remake(t.Context(), image, list, ends(t, image), 0, room, 2)
		if err != nil || len(made) != want || made[0].Codec != expand.Deflate {
			t.Errorf("room for %d bytes: %d streams, want %d: %v", room, len(made), want, err)
		}
	}
}

// TestTheRoomOfFormsIsShared.
func TestTheRoomOfFormsIsShared(t *testing.T) {
	f := newForms(10, allEfforts())
	if !f.take(6) || f.take(5) || !f.take(4) || f.take(1) {
		t.Errorf("%d bytes of room are left", f.room.Load())
	}
}

// TestAShortStreamDoesNotTellForAll: nor noise, of which all efforts make the same.
func TestAShortStreamDoesNotTellForAll(t *testing.T) {
	f := newForms(1<<30, allEfforts())
	for i, c := range []struct {
		size   int64
		tells  uint8
		effort uint8
	}{{300, 1, 1}, {500, 2, 1}, {50_000, 3, 3}, {60_000, 4, 3}, {400_000, 2, 2}, {900_000, 5, 2}, {large, 6, 6}, {800_000, 1, 6}} {
		if got := f.by(c.size, func([]uint8) uint8 { return c.tells }); got != c.effort {
			t.Errorf("stream %d: effort %d, want %d", i, got, c.effort)
		}
	}
	stored := other(t, noise(3, 50_000))
	list, err := streams(t.Context(), stored, 0)
	if err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	tr := &trier{image: stored, forms: f, stream: list[0].Stream}
	s := list[0].Stream
	s.Codec = expand.DeflateParsed
	if got := tr.choose(s, allEfforts()); got != 0 {
		t.Errorf("noise is taken to be made by effort %d", got)
	}
}

// TestBothSidesHaveTheSameEfforts: other ones' corrections have nothing in common.
func TestBothSidesHaveTheSameEfforts(t *testing.T) {
	old := image(other(t, noise(3, 2_000)), other(t, text(1, 200_000)), other(t, text(5, 100_000)))
	new := image(other(t, text(2, 200_000)), other(t, text(6, 100_000)))
	h, _ := decoder(t, encoded(t, old, new), old)
	for _, s := range h.Old {
		if s.Codec == expand.DeflateParsed && s.Effort != h.New[0].Effort {
			t.Errorf("effort %d, of the new one %d", s.Effort, h.New[0].Effort)
		}
	}
	made := []remade{{Stream: expand.Stream{Codec: expand.DeflateParsed, Effort: 2, Size: 10}}, {Stream: expand.Stream{Codec: expand.DeflateParsed, Effort: 4, Size: 20}}, {Stream: expand.Stream{Codec: expand.LZMA, Size: 9}}}
	if got := effortsOf(made); !slices.Equal(got, []uint8{4, 2}) {
		t.Errorf("efforts %d", got)
	}
}

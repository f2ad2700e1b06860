package find

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// TestWaysAreNotTriedForEachStreamInVain: an image may have thousands that nobody known made.
func TestWaysAreNotTriedForEachStreamInVain(t *testing.T) {
	image := gzip(t, text(1, 50_000))
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
	for memory, want := range map[int64]error{content - 1: ErrMemory, content: ErrMemory, content + 32<<20: nil} {
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
		tr := &trier{image: image, most: most, stream: list[0].Stream}
		if ok := tr.parse(); ok != want || ok != (tr.stream.Codec == expand.DeflateParsed) {
			t.Errorf("%d bytes: %v, codec %d", most, ok, tr.stream.Codec)
		}
	}
}

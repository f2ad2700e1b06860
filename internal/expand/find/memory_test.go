package find

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// TestMemoryIsBounded: what does not fit is refused, what fits is made as with more, and whoever
// holds the images hears when each is read no more.
func TestMemoryIsBounded(t *testing.T) {
	const length = 2 << 20
	old := slices.Concat(noise(1, 50_000), gzip(t, text(1, length)))
	new := slices.Concat(noise(1, 50_000), gzip(t, text(2, length)))
	encode := func(memory int64) (out bytes.Buffer, read int, err error) {
		// More workers than there is ever memory for here.
		o := Options{Ends: ends(t, new), Coder: delta.Zstd, Workers: 50, Memory: memory, Expanded: func() { read++ }}
		err = Encode(t.Context(), &out, old, new, o)
		return out, read, err
	}
	whole, _, err := encode(0)
	if err != nil {
		t.Fatal(err)
	}
	forms := int64(2 * (50_000 + length))
	for name, memory := range map[string]int64{
		"both forms":       delta.LeastMemory(1) + forms/2,
		"the delta itself": delta.LeastMemory(1) + forms + 100, // with the heads of the files
	} {
		out, _, err := encode(memory)
		if !errors.Is(err, delta.ErrMemory) || out.Len() != 0 {
			t.Errorf("no room for %s: %v, and %d bytes of a delta", name, err, out.Len())
		}
	}
	enough, read, err := encode(delta.LeastMemory(1) + forms + 8*length)
	if err != nil || !bytes.Equal(enough.Bytes(), whole.Bytes()) {
		t.Errorf("%v, %d bytes, by as much memory as it needs %d", err, enough.Len(), whole.Len())
	}
	if read != 2 {
		t.Errorf("said %d times that an image is read no more", read)
	}
}

// TestWhatIsKeptWhileItIsReadIsBounded, also where it does not grow: of deflate nothing is kept.
func TestWhatIsKeptWhileItIsReadIsBounded(t *testing.T) {
	data := noise(1, 500_000)
	for name, want := range map[string]map[int64]int{"zstd": {0: 1, 1 << 20: 1, 400_000: 0}, "gzip": {0: 1, 400_000: 1}} {
		file := compressed(t, data, name)
		for most, n := range want {
			if list, err := streams(t.Context(), file, most); err != nil || len(list) != n {
				t.Errorf("%s, at most %d: %d streams, want %d (%v)", name, most, len(list), n, err)
			}
		}
	}
}

// TestFewTryLargeStreamsAtOnce: each of them holds a multiple of one.
func TestFewTryLargeStreamsAtOnce(t *testing.T) {
	for _, c := range []struct {
		memory, largest int64
		want            int
	}{{0, 1 << 30, 8}, {1 << 30, 1 << 20, 8}, {1 << 30, 64 << 20, 3}, {1 << 30, 1 << 30, 1}} {
		o := Options{Memory: c.memory}
		if n := o.triers(8, []expand.Stream{{Size: 5}, {Size: c.largest}}); n != c.want {
			t.Errorf("%d bytes, streams of %d: %d at once, want %d", c.memory, c.largest, n, c.want)
		}
	}
}

package delta

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestLittleMemorySortsLess: the delta is longer, and makes the same.
func TestLittleMemorySortsLess(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	old, new := large(r)
	lengths := map[int64]int{}
	for _, memory := range []int64{0, 1 << 30, LeastMemory(2) + madeMemory*50_000} {
		var out bytes.Buffer
		if err := Encode(t.Context(), &out, old, new, Options{Workers: 2, Memory: memory}); err != nil {
			t.Fatalf("%d bytes: %v", memory, err)
		}
		lengths[memory] = out.Len()
		h, err := ReadHead(&out)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDecoder(h, bytes.NewReader(old))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Segment(nil, 0, out.Bytes()); err != nil || !bytes.Equal(got, new) {
			t.Fatalf("%d bytes: another image came out (%v)", memory, err)
		}
	}
	if lengths[0] != lengths[1<<30] {
		t.Errorf("%d bytes by as much memory as it needs, %d by a GiB", lengths[0], lengths[1<<30])
	}
	if least := lengths[LeastMemory(2)+madeMemory*50_000]; least <= lengths[0] {
		t.Errorf("%d bytes by little memory, %d by as much as it needs", least, lengths[0])
	}
}

// TestTooLittleMemoryIsSaid, before anything is sorted: here for what is not the same.
func TestTooLittleMemoryIsSaid(t *testing.T) {
	old, new := large(rand.New(rand.NewPCG(5, 5)))
	for _, memory := range []int64{1, LeastMemory(2), LeastMemory(2) + madeMemory*10_000} {
		var out bytes.Buffer
		err := Encode(t.Context(), &out, old, new, Options{Workers: 2, Memory: memory})
		if !errors.Is(err, ErrMemory) || out.Len() != 0 {
			t.Errorf("%d bytes: %v, and %d bytes of a delta", memory, err, out.Len())
		}
	}
}

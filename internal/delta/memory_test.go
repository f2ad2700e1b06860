package delta

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
)

// TestLittleMemorySortsLess: the delta is longer, and makes the same.
func TestLittleMemorySortsLess(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	old, new := large(r)
	lengths := map[int64]int{}
	for _, memory := range []int64{0, 1 << 30, LeastMemory(1) + madeMemory*50_000} {
		var out bytes.Buffer
		if err := Encode(t.Context(), &out, old, new, Options{Workers: 50, Memory: memory}); err != nil { // fewer, with little
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
	if least := lengths[LeastMemory(1)+madeMemory*50_000]; least <= lengths[0] {
		t.Errorf("%d bytes by little memory, %d by as much as it needs", least, lengths[0])
	}
}

// TestTooLittleMemoryIsSaid, before anything is sorted: here for what is not the same.
func TestTooLittleMemoryIsSaid(t *testing.T) {
	old, new := large(rand.New(rand.NewPCG(5, 5)))
	for _, memory := range []int64{1, LeastMemory(1), LeastMemory(1) + madeMemory*10_000} {
		var out bytes.Buffer
		err := Encode(t.Context(), &out, old, new, Options{Workers: 1, Memory: memory})
		if !errors.Is(err, ErrMemory) || out.Len() != 0 {
			t.Errorf("%d bytes: %v, and %d bytes of a delta", memory, err, out.Len())
		}
	}
}

// TestWorkersAreThoseThatThereIsMemoryFor: more of them leave less to be sorted.
func TestWorkersAreThoseThatThereIsMemoryFor(t *testing.T) {
	for _, c := range []struct {
		memory        int64
		workers, want int
	}{{0, 200, 200}, {1, 4, 1}, {256 << 20, 8, 1}, {2 << 30, 2, 2}, {2 << 30, 61, 29}, {64 << 30, 61, 61}} {
		if n := WorkersWithin(c.memory, c.workers); n != c.want {
			t.Errorf("%d bytes: %d of %d workers, want %d", c.memory, n, c.workers, c.want)
		}
	}
	if n := WorkersWithin(0, 0); n != runtime.NumCPU() {
		t.Errorf("%d workers where nobody says how many", n)
	}
}

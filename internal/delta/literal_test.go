package delta_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"groundswell/internal/delta"
)

// TestNoiseBesideTextCostsWhatItIs: models that learn from noise would cost more for it
// than it has bytes, and stored text as much as it has.
func TestNoiseBesideTextCostsWhatItIs(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const block, rounds = 64 << 10, 4
	old := noise(r, block)
	var new []byte
	for range rounds {
		new = append(append(append(new, noise(r, 3*block)...), text(r, block)...), old...)
	}
	made := encode(t, old, new, delta.Options{Coder: delta.Mixed})
	got, err := decode(old, made, nil)
	if err != nil || !bytes.Equal(got, new) {
		t.Fatalf("not what it was: %v", err)
	}
	const stored = 3 * block * rounds
	alone := len(encode(t, nil, text(r, block*rounds), delta.Options{Coder: delta.Mixed}))
	if limit := stored + stored/500 + alone + alone/4; len(made) > limit {
		t.Errorf("%d bytes, of which %d are noise, and the text alone has %d", len(made), stored, alone)
	}
}

// TestModelsAreForWhatTheyMakeMuchShorter: noise with a little text in it is not worth their
// time.
func TestModelsAreForWhatTheyMakeMuchShorter(t *testing.T) {
	const stored, zstd, mixed = 0, 1, 3
	for prose, methods := range map[int][]byte{2 << 10: {stored, zstd}, 64 << 10: {mixed, mixed + 2}} {
		r := rand.New(rand.NewPCG(7, 7))
		new := append(noise(r, 800<<10), text(r, prose)...)
		made := encode(t, nil, new, delta.Options{Coder: delta.Mixed})
		h, err := delta.ReadHead(bytes.NewReader(made))
		if err != nil {
			t.Fatal(err)
		}
		if m := made[h.Segments[0].Offset]; !bytes.Contains(methods, []byte{m}) {
			t.Errorf("%d bytes of prose: method %d, want one of %d", prose, m, methods)
		}
		if got, err := decode(nil, made, nil); err != nil || !bytes.Equal(got, new) {
			t.Errorf("%d bytes of prose: not what it was: %v", prose, err)
		}
	}
}

// TestFormatSaysWhatADecoderMustKnow: one that does not know marked literals refuses the
// head, before it has fetched a segment.
func TestFormatSaysWhatADecoderMustKnow(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	old := noise(r, 64<<10)
	marked := append(append(noise(r, 64<<10), text(r, 64<<10)...), old...)
	if made := encode(t, old, marked, delta.Options{Coder: delta.Mixed}); made[3] != 2 {
		t.Errorf("version %d of a delta with marked literals", made[3])
	}
	if made := encode(t, old, old, delta.Options{Coder: delta.Mixed}); made[3] != 1 {
		t.Errorf("version %d of a delta without", made[3])
	}
}

// forwards notes when an image is read backwards.
type forwards struct {
	*bytes.Reader
	last, back int64
}

func (f *forwards) ReadAt(p []byte, at int64) (int, error) {
	if at < f.last {
		f.back++
	}
	f.last = at
	return f.Reader.ReadAt(p, at)
}

// TestASegmentReadsTheOldImageForwards: what the new one has in another order costs no more.
func TestASegmentReadsTheOldImageForwards(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 10))
	old := noise(r, 512<<10)
	var new []byte
	for _, i := range r.Perm(len(old) / 4096) {
		new = append(new, old[i*4096:(i+1)*4096]...)
	}
	made := encode(t, old, new, delta.Options{})
	h, err := delta.ReadHead(bytes.NewReader(made))
	if err != nil {
		t.Fatal(err)
	}
	image := &forwards{Reader: bytes.NewReader(old)}
	d, err := delta.NewDecoder(h, image)
	if err != nil {
		t.Fatal(err)
	}
	image.last, image.back = 0, 0
	got, err := d.Segment(nil, 0, made[h.Segments[0].Offset:][:h.Segments[0].Length])
	if err != nil || !bytes.Equal(got, new) {
		t.Fatalf("not what it was: %v", err)
	}
	if image.back > 0 {
		t.Errorf("%d steps back", image.back)
	}
}

package delta

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// large is an image like those that are too large to be sorted as they are.
func large(r *rand.Rand) (old, new []byte) {
	old = make([]byte, 600_000)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	new = slices.Concat(old[100_000:300_000], []byte("something new"), old[:90_000], old[300_000:])
	for i := 400_000; i < 430_000; i += 100 { // no long range of it is left
		new[i]++
	}
	return old, new
}

func TestLongIdenticalRangesNeedNoSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	old, new := large(r)
	list := identical(old, new)
	covered, end := 0, int32(0)
	for _, c := range list {
		if c.at < end || c.size < identicalLeast {
			t.Fatalf("%v behind one that ends at %d", c, end)
		}
		if !bytes.Equal(new[c.at:c.end()], old[c.from:c.from+c.size]) {
			t.Fatalf("%v is not identical", c)
		}
		covered, end = covered+int(c.size), c.end()
	}
	if most := len(new) - 30_000 - 13; covered < most-2*identicalLeast || covered > most+200 {
		t.Errorf("%d bytes of %d are found identical", covered, most)
	}
	rest := newRemains(old, list, len(old))
	for range 1000 {
		if at := r.IntN(len(rest.text)); rest.text[at] != old[rest.offset(at)] {
			t.Fatalf("position %d of the text is not at %d of the image", at, rest.offset(at))
		}
	}
	if n := len(newRemains(old, list, 5000).text); n != 5000 {
		t.Errorf("%d bytes remain, want 5000 at most", n)
	}
}

func TestLargeImagesComeOut(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	old, new := large(r)
	var whole int
	for _, limit := range []limits{{len(old), len(old), 0}, {0, len(old), 0}, {0, 4000, 0}, {0, 0, 0}} {
		var out bytes.Buffer
		if err := encodeWithin(context.Background(), &out, old, new, Options{Coder: Mixed}, limit); err != nil {
			t.Fatal(err)
		}
		if whole == 0 {
			whole = out.Len()
		}
		if out.Len() > whole*2+40_000 {
			t.Errorf("%+v: %d bytes, %d if all is sorted", limit, out.Len(), whole)
		}
		h, err := ReadHead(&out)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDecoder(h, bytes.NewReader(old))
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Segment(nil, 0, out.Bytes())
		if err != nil || !bytes.Equal(got, new) {
			t.Fatalf("%+v: another image came out (%v)", limit, err)
		}
	}
}

// TestWhatIsUnlikeIsNoCopy: a stretch inside a copy of which no byte is the same, but for
// a short one.
func TestWhatIsUnlikeIsNoCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	old := make([]byte, 2000)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	new := bytes.Clone(old[500:])
	change := func(at, n int) {
		for i := range n {
			new[at+i]++
		}
	}
	change(300, unlike)
	change(600, unlike-1)
	change(1000-unlike, unlike) // the end
	got := apart([]copied{{0, 500, 1000}, {1100, 1600, 400}}, old, new)
	want := []copied{{0, 500, 300}, {300 + unlike, 800 + unlike, 700 - 2*unlike}, {1100, 1600, 400}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

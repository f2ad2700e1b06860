package delta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"groundswell/internal/delta"
)

var coders = []delta.Coder{delta.Zstd, delta.Mixed}

func encode(t testing.TB, old, new []byte, o delta.Options) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := delta.Encode(context.Background(), &out, old, new, o); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// decode decodes the segments in the given order, or from the first to the last.
func decode(old, made []byte, order []int) ([]byte, error) {
	h, err := delta.ReadHead(bytes.NewReader(made))
	if err != nil {
		return nil, err
	}
	d, err := delta.NewDecoder(h, bytes.NewReader(old))
	if err != nil {
		return nil, err
	}
	out := make([]byte, h.NewLength)
	if order == nil {
		for i := range h.Segments {
			order = append(order, i)
		}
	}
	for _, i := range order {
		s := h.Segments[i]
		if s.Offset+s.Length > int64(len(made)) {
			return nil, delta.ErrTruncated
		}
		got, err := d.Segment(nil, i, made[s.Offset:s.Offset+s.Length])
		if err != nil {
			return nil, err
		}
		copy(out[s.Start:s.Start+s.Size], got)
	}
	return out, nil
}

// noise is n bytes that resemble nothing.
func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text is n bytes with some order in them.
func text(r *rand.Rand, n int) []byte {
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, "%d: device-%x goes to %s\n", r.IntN(1000), r.IntN(1<<16), []string{"idle", "trying", "committed"}[r.IntN(3)])
	}
	return b[:n]
}

// mutated is data with some bytes changed, inserted, deleted and moved.
func mutated(r *rand.Rand, data []byte, times int) []byte {
	data = bytes.Clone(data)
	for range times {
		if len(data) == 0 {
			return noise(r, 10)
		}
		at := r.IntN(len(data))
		end := min(at+r.IntN(300), len(data))
		switch r.IntN(5) {
		case 0:
			data[at] ^= byte(r.Uint32())
		case 1:
			data = slices.Insert(data, at, noise(r, end-at)...)
		case 2:
			data = slices.Delete(data, at, end)
		case 3:
			moved := bytes.Clone(data[at:end])
			data = slices.Insert(slices.Delete(data, at, end), r.IntN(len(data)-len(moved)+1), moved...)
		case 4: // every fourth byte, as a shift of addresses does it
			for i := at; i < end; i += 4 {
				data[i] += 16
			}
		}
	}
	return data
}

// ends cuts a length into random segments.
func ends(r *rand.Rand, length int) []int64 {
	list := []int64{}
	for at := 0; at < length; {
		at = min(at+1+r.IntN(1+r.IntN(1<<17)), length)
		list = append(list, int64(at))
	}
	return list
}

func TestEveryPairComesOut(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 2))
	base, words := noise(r, 300_000), text(r, 300_000)
	for _, pair := range []struct {
		name     string
		old, new []byte
	}{
		{"both empty", nil, nil},
		{"old empty", nil, words},
		{"new empty", words, nil},
		{"one byte", []byte{1}, []byte{2}},
		{"tiny", []byte("abc"), []byte("abcd")},
		{"equal", base, base},
		{"unlike", base, noise(r, 200_000)},
		{"zeros from nothing", nil, make([]byte, 2<<20)},
		{"zeros from noise", base, make([]byte, 100_000)},
		{"few changes", words, mutated(r, words, 3)},
		{"many changes", base, mutated(r, base, 500)},
		{"only the end", base, base[200_000:]},
		{"twice", words, append(bytes.Clone(words), words...)},
		{"reversed halves", base, append(bytes.Clone(base[150_000:]), base[:150_000]...)},
		{"more than a segment", bytes.Repeat(words, 5), mutated(r, bytes.Repeat(words, 5), 50)},
	} {
		for _, coder := range coders {
			t.Run(pair.name+" "+coder.String(), func(t *testing.T) {
				made := encode(t, pair.old, pair.new, delta.Options{Coder: coder})
				got, err := decode(pair.old, made, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, pair.new) {
					t.Error("another image came out")
				}
				if most := len(pair.new) + len(pair.new)/1000 + 100; len(made) > most {
					t.Errorf("%d bytes for %d", len(made), len(pair.new))
				}
			})
		}
	}
}

func TestAnyEndsInAnyOrder(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		old := text(r, r.IntN(200_000))
		if seed%2 == 0 {
			old = noise(r, r.IntN(200_000))
		}
		new := mutated(r, old, r.IntN(60))
		cut := ends(r, len(new))
		made := encode(t, old, new, delta.Options{Coder: coders[seed/2%2], Ends: cut})
		h, err := delta.ReadHead(bytes.NewReader(made))
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range h.Segments {
			if s.Start+s.Size != cut[i] {
				t.Fatalf("seed %d: segment %d ends at %d, want %d", seed, i, s.Start+s.Size, cut[i])
			}
		}
		got, err := decode(old, made, r.Perm(len(h.Segments)))
		if err != nil || !bytes.Equal(got, new) {
			t.Fatalf("seed %d: another image came out (%v)", seed, err)
		}
	}
}

func TestSameBytesWithAnyNumberOfWorkers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	old := text(r, 5<<20)
	new := mutated(r, old, 200)
	for _, coder := range coders {
		one := encode(t, old, new, delta.Options{Coder: coder, Workers: 1})
		if many := encode(t, old, new, delta.Options{Coder: coder, Workers: 5}); !bytes.Equal(one, many) {
			t.Errorf("%s: the number of workers shows in the delta", coder)
		}
	}
}

func TestHeadEndsWhereItSays(t *testing.T) {
	made := encode(t, []byte("an old image"), []byte("an old image, changed"), delta.Options{Coder: delta.Mixed})
	r := bytes.NewReader(made)
	h, err := delta.ReadHead(r)
	if err != nil {
		t.Fatal(err)
	}
	if read := int64(len(made) - r.Len()); read != h.Length || h.Segments[0].Offset != h.Length {
		t.Errorf("read %d bytes of a head of %d, segments from %d on", read, h.Length, h.Segments[0].Offset)
	}
	if s := h.Segments[len(h.Segments)-1]; s.Offset+s.Length != int64(len(made)) {
		t.Errorf("segments end at %d of %d", s.Offset+s.Length, len(made))
	}
}

func TestEncodeRefusesEnds(t *testing.T) {
	image := make([]byte, delta.MaxSegment+1)
	for _, test := range []struct {
		name string
		ends []int64
		want error
	}{
		{"beyond the end", []int64{int64(len(image)) + 1}, delta.ErrOffset},
		{"descending", []int64{1000, 900, int64(len(image))}, delta.ErrOffset},
		{"twice the same", []int64{1000, 1000, int64(len(image))}, delta.ErrOffset},
		{"short of the end", []int64{1000}, delta.ErrOffset},
		{"none", []int64{}, delta.ErrOffset},
		{"too large a segment", []int64{int64(len(image))}, delta.ErrTooLarge},
	} {
		var out bytes.Buffer
		err := delta.Encode(context.Background(), &out, nil, image, delta.Options{Ends: test.ends})
		if !errors.Is(err, test.want) || out.Len() > 0 {
			t.Errorf("%s: %v and %d bytes, want %v", test.name, err, out.Len(), test.want)
		}
	}
}

func TestEncodeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	err := delta.Encode(ctx, &out, make([]byte, 100), make([]byte, 100), delta.Options{})
	if !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("%v and %d bytes", err, out.Len())
	}
}

func TestSegmentsNeedNoMemoryOfTheirOwn(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	old := text(r, 600_000)
	new := mutated(r, old, 30)
	made := encode(t, old, new, delta.Options{Coder: delta.Mixed, Ends: []int64{int64(len(new)) / 2, int64(len(new))}})
	h, err := delta.ReadHead(bytes.NewReader(made))
	if err != nil {
		t.Fatal(err)
	}
	d, err := delta.NewDecoder(h, bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range h.Segments {
		if made[s.Offset] < 3 { // by models, which have most of the memory
			t.Fatalf("segment %d is coded by method %d", i, made[s.Offset])
		}
	}
	buffer := make([]byte, 0, len(new))
	allocations := testing.AllocsPerRun(3, func() {
		for i, s := range h.Segments {
			if _, err := d.Segment(buffer, i, made[s.Offset:s.Offset+s.Length]); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocations > 0 {
		t.Errorf("%v allocations for two segments", allocations)
	}
}

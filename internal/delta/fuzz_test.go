package delta

import (
	"bytes"
	"context"
	"testing"
)

// fuzzImages are an old image with a program in it, and a new one like it.
func fuzzImages() (old, new []byte) {
	old = make([]byte, 3000)
	for i := range old {
		old[i] = byte(i * i >> 3)
	}
	// An ELF header for arm64 and one loaded range, so that passes have addresses.
	copy(old, "\x7fELF\x02\x01\x01")
	old[32], old[54], old[56] = 64, 56, 1
	old[64] = 1
	old[64+18] = 0x40
	old[64+33], old[64+41] = 11, 12
	for i := 1024; i < 2048; i += 16 {
		copy(old[i:], []byte{0x00, 0x01, 0x00, 0x94, 0xe8, 0x10, 0x01, 0, 0})
	}
	new = append(bytes.Clone(old[:2200]), old[1800:]...)
	for i := 1024; i < 2048; i += 48 {
		new[i]++
	}
	return old, new
}

func FuzzDelta(f *testing.F) {
	old, new := fuzzImages()
	for _, coder := range []Coder{Zstd, Mixed} {
		for _, pair := range [][2][]byte{{old, new}, {nil, new}, {old, old}, {old, nil}} {
			var out bytes.Buffer
			o := Options{Coder: coder}
			if len(pair[1]) > 1000 {
				o.Ends = []int64{1000, int64(len(pair[1]))}
			}
			if err := Encode(context.Background(), &out, pair[0], pair[1], o); err != nil {
				f.Fatal(err)
			}
			f.Add(out.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { decodeHostile(t, old, data) })
}

// FuzzSegment leaves the head alone, and tries every method and pass.
func FuzzSegment(f *testing.F) {
	old, new := fuzzImages()
	copies := []copied{{0, 0, 1100}, {1200, 1100, 1000}, {2300, 500, 900}}
	for m := range methodMarked + 1 {
		f.Add(append([]byte{byte(m), 0x7f, 0}, new[:200]...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &Head{
			OldLength: int64(len(old)), NewLength: 3300, Coder: Mixed, copies: packCopies(copies), spaces: []space{{moved: []int32{4096}}},
			Segments: []Segment{{Size: 3300, Length: int64(len(data))}},
		}
		d, err := NewDecoder(h, bytes.NewReader(old))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Segment(nil, 0, data); err != nil {
			mustBeSentinel(t, err)
		} else if len(got) != 3300 {
			t.Fatalf("made %d bytes", len(got))
		}
	})
}

// FuzzPair encodes any pair and decodes it.
func FuzzPair(f *testing.F) {
	old, new := fuzzImages()
	f.Add(old, new, uint16(700), true)
	f.Add([]byte{}, new, uint16(9), false)
	f.Add(new, []byte("short"), uint16(1), true)
	f.Fuzz(func(t *testing.T, old, new []byte, cut uint16, mixed bool) {
		if len(old)+len(new) > 1<<16 {
			return
		}
		o := Options{Workers: 1}
		if mixed {
			o.Coder = Mixed
		}
		if int(cut) > 0 && int(cut) < len(new) {
			o.Ends = []int64{int64(cut), int64(len(new))}
		}
		var out bytes.Buffer
		if err := Encode(context.Background(), &out, old, new, o); err != nil {
			t.Fatal(err)
		}
		h, err := ReadHead(&out)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDecoder(h, bytes.NewReader(old))
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for i, s := range h.Segments {
			if got, err = d.Segment(got, i, out.Next(int(s.Length))); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, new) {
			t.Fatal("another image came out")
		}
	})
}

package expand

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"groundswell/internal/lzmaparse"
	"groundswell/internal/zstdparse"
	"testing"
)

// oldOf reads an image of streams with so much content each.
func oldOf(t *testing.T, sizes ...int) *old {
	t.Helper()
	var image bytes.Buffer
	var h Head
	for _, size := range sizes {
		at := image.Len()
		w, err := flate.NewWriter(&image, 9)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(make([]byte, size))
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		h.Old = append(h.Old, Stream{At: int64(at), Length: int64(image.Len() - at), Size: int64(size)})
	}
	h.OldLength = int64(image.Len())
	if _, err := place(h.Old, h.OldLength); err != nil {
		t.Fatal(err)
	}
	return newOld(&h, bytes.NewReader(image.Bytes()), nil)
}

// TestContentKeepsNoMoreMemoryThanItSays: small content is not kept in the room of large.
func TestContentKeepsNoMoreMemoryThanItSays(t *testing.T) {
	const n = 40
	var sizes []int
	for i := range n {
		sizes = append(sizes, cached-i, LeastStream)
	}
	o := oldOf(t, sizes...)
	touch := func(k int) {
		if _, err := o.content(make([]byte, 1), k, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		touch(2 * i)
		for k := range i { // the large one is the next to go
			touch(2*k + 1)
		}
		touch(2*i + 1)
		kept := 0
		for _, c := range o.recent {
			kept += cap(c.data)
		}
		if kept > cached || kept != o.held {
			t.Fatalf("%d bytes are held, it says %d", kept, o.held)
		}
	}
}

// TestInflatingAgainAndAgainHasAnEnd: an image that is read to and fro would keep a device
// busy for hours.
func TestInflatingAgainAndAgainHasAnEnd(t *testing.T) {
	const size = cached
	o := oldOf(t, size, size)
	most := (2*maxInflated*size + maxInflatedMore) / size
	for i := range most {
		if _, err := o.content(make([]byte, 1), i%2, 0); err != nil {
			t.Fatalf("after %d of %d: %v", i, most, err)
		}
	}
	if _, err := o.content(make([]byte, 1), most%2, 0); !errors.Is(err, ErrWork) {
		t.Errorf("got %v, want %v", err, ErrWork)
	}
}

// TestReadingAParsedFormCostsMoreThanItsLength: the first block is decoded, whatever the
// recipe says that it makes.
func TestReadingAParsedFormCostsMoreThanItsLength(t *testing.T) {
	short, long := Stream{Size: LeastStream, Codec: LZMA}, Stream{Size: 1 << 20, Codec: Zstd}
	if got := short.work(); got != leastWork {
		t.Errorf("%d bytes", got)
	}
	if got := long.work(); got != long.Size {
		t.Errorf("%d bytes", got)
	}
	h := &Head{Old: []Stream{short}}
	if got, want := newOld(h, nil, nil).work, int64(maxInflated*leastWork+maxInflatedMore); got != want {
		t.Errorf("%d bytes of work, want %d", got, want)
	}
}

// TestOnlyOneCodecTakesMemory at a time.
func TestOnlyOneCodecTakesMemory(t *testing.T) {
	var r Reader
	var w Writer
	for _, codec := range []Codec{Zstd, LZMA, Deflate, LZMA2} {
		if err := errors.Join(r.Reset(codec, bytes.NewReader(nil), nil), w.Reset(Stream{Codec: codec, Way: way}, nil)); err != nil {
			t.Fatal(err)
		}
		for what, has := range map[Codec][]bool{
			Deflate: {r.deflate != nil, w.deflate != nil}, Zstd: {r.zstd != nil, w.zstd != nil}, LZMA: {r.lzma != nil, w.lzma != nil},
		} {
			want := what == codec || what == LZMA && codec == LZMA2
			if has[0] != want || has[1] != want {
				t.Errorf("codec %d: of %d there is %v", codec, what, has)
			}
		}
	}
}

var errFull = errors.New("no space left on device")

// TestAFullDiskIsNoCorruptDelta.
func TestAFullDiskIsNoCorruptDelta(t *testing.T) {
	for err, want := range map[error]bool{
		fmt.Errorf("keep content: %w", errFull): false, lzmaparse.ErrCorrupt: true, zstdparse.ErrTooFar: true, fmt.Errorf("%w: x", lzmaparse.ErrTooLarge): true,
	} {
		if got := corrupt(err); errors.Is(got, ErrCorrupt) != want || !errors.Is(got, err) {
			t.Errorf("%v", got)
		}
	}
	if corrupt(nil) != nil {
		t.Error("of nothing")
	}
}

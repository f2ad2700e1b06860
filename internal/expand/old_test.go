package expand

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"groundswell/internal/deflateparse"
	"groundswell/internal/lzmaparse"
	"groundswell/internal/zstdparse"
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
	foretold := Stream{Size: LeastStream, Codec: DeflateParsed}
	if got := foretold.work(); got != leastParsedWork {
		t.Errorf("%d bytes of what is foretold", got)
	}
	h := &Head{Old: []Stream{short}}
	if got, want := newOld(h, nil, nil).work, int64(maxInflated*leastWork+maxInflatedMore); got != want {
		t.Errorf("%d bytes of work, want %d", got, want)
	}
}

// TestAShortStreamMayMatchFarBack: farther than what a codec keeps in memory, of what is
// kept nowhere but in the memory of its content.
func TestAShortStreamMayMatchFarBack(t *testing.T) {
	data := make([]byte, 800_000, 900_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	data = append(data, data[:100_000]...)
	for codec, program := range map[Codec][]string{LZMA: {"xz", "--format=lzma", "-c"}, Zstd: {"zstd", "-q", "-c"}} {
		cmd := exec.Command(program[0], program[1:]...)
		cmd.Stdin = bytes.NewReader(data)
		raw, err := cmd.Output()
		if err != nil || len(raw) > 850_000 {
			t.Fatalf("%v: %d bytes, %v", program, len(raw), err)
		}
		var r Reader
		var form []byte
		if err := r.Reset(Stream{Codec: codec}, bytes.NewReader(raw), bytes.NewReader(make([]byte, 0))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(&r); err == nil {
			t.Errorf("%v: nothing of it is far back", program)
		}
		var back Memory
		if err := r.Reset(Stream{Codec: codec}, bytes.NewReader(raw), &back); err != nil {
			t.Fatal(err)
		}
		for buffer := make([]byte, 1000); ; {
			n, err := r.Read(buffer)
			_, _ = back.WriteAt(buffer[:n], int64(len(form))) // never fails
			if form = append(form, buffer[:n]...); err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		h := &Head{OldLength: int64(len(raw)), Old: []Stream{{Length: int64(len(raw)), Size: int64(len(form)), Codec: codec}}}
		if _, err := place(h.Old, h.OldLength); err != nil || len(form) > small {
			t.Fatal(err)
		}
		got := make([]byte, len(form))
		if n, err := newOld(h, bytes.NewReader(raw), nil).ReadAt(got, 0); n != len(got) || err != nil || !bytes.Equal(got, form) {
			t.Errorf("%v: %d bytes, %v", program, n, err)
		}
		var w Writer
		if err := w.Reset(h.Old[0], &Memory{}); err != nil {
			t.Fatal(err)
		}
		out, err := w.Write(nil, form)
		if err == nil {
			out, err = w.Finish(out)
		}
		if err != nil || !bytes.Equal(out, raw[:len(out)]) || len(out) < len(raw)-8 {
			t.Errorf("%v: %d bytes are made again, %v", program, len(out), err)
		}
	}
}

// TestWhatIsBehindAStreamIsCounted: a reader may have taken of it.
func TestWhatIsBehindAStreamIsCounted(t *testing.T) {
	var stream bytes.Buffer
	w, err := flate.NewWriter(&stream, 9)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	source := bytes.NewReader(append(stream.Bytes(), "what is behind"...))
	var r Reader
	if err := r.Reset(Stream{Codec: DeflateParsed, Effort: 1}, source, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(&r); err != nil {
		t.Fatal(err)
	}
	if n := int64(source.Len()) + r.Ahead(); n != int64(len("what is behind")) || r.Ahead() == 0 {
		t.Errorf("%d bytes are behind it, of which it has %d", n, r.Ahead())
	}
}

// TestOnlyOneCodecTakesMemory at a time.
func TestOnlyOneCodecTakesMemory(t *testing.T) {
	var r Reader
	var w Writer
	for _, codec := range []Codec{Zstd, LZMA, DeflateParsed, Deflate, LZMA2} {
		if err := errors.Join(r.Reset(Stream{Codec: codec}, bytes.NewReader(nil), nil), w.Reset(Stream{Codec: codec, Way: way}, nil)); err != nil {
			t.Fatal(err)
		}
		for what, has := range map[Codec][]bool{
			Deflate: {r.deflate != nil, w.deflate != nil}, Zstd: {r.zstd != nil, w.zstd != nil}, LZMA: {r.lzma != nil, w.lzma != nil},
			DeflateParsed: {r.parsed != nil, w.parsed != nil},
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
		deflateparse.ErrTooFar: true,
	} {
		if got := corrupt(err); errors.Is(got, ErrCorrupt) != want || !errors.Is(got, err) {
			t.Errorf("%v", got)
		}
	}
	if corrupt(nil) != nil {
		t.Error("of nothing")
	}
}

package expand

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

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

// TestContentKeepsNoMoreMemoryThanItSays: and what is kept there stays as it is.
func TestContentKeepsNoMoreMemoryThanItSays(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 3))
	for _, test := range []struct {
		longest, room int
	}{{cached / 4, cached}, {cached, cached}, {cached + 7, cached + 7}, {small, small}} {
		sizes := []int{test.longest}
		for range 40 {
			sizes = append(sizes, LeastStream+random.IntN(test.longest-LeastStream))
		}
		o := oldOf(t, sizes...)
		if len(o.room) != test.room {
			t.Fatalf("room for %d bytes, want %d", len(o.room), test.room)
		}
		kept := 0
		for range 400 {
			k := random.IntN(len(sizes))
			if _, err := o.content(make([]byte, 1), k, 0); err != nil {
				t.Fatal(err)
			}
			if last := o.recent[len(o.recent)-1]; last.stream != k {
				kept++
			}
			there := make([]int, len(o.room)) // whose a byte is
			for _, c := range o.recent {
				if c.to-c.from != sizes[c.stream] {
					t.Fatalf("%d bytes of stream %d, of %d", c.to-c.from, c.stream, sizes[c.stream])
				}
				for at := c.from; at < c.to; at++ {
					if there[at] != 0 {
						t.Fatalf("streams %d and %d stand at %d", there[at]-1, c.stream, at)
					}
					there[at] = c.stream + 1
				}
			}
		}
		if kept == 0 {
			t.Error("nothing was there a second time")
		}
	}
	if o := oldOf(t, LeastStream, small+1); len(o.room) != LeastStream {
		t.Errorf("room for %d bytes where there are %d", len(o.room), LeastStream)
	}
}

// TestWhatFailsIsNotKept: nor is what stood where it was to be.
func TestWhatFailsIsNotKept(t *testing.T) {
	o := oldOf(t, cached/2, cached/2, cached)
	read := func(k int) error {
		_, err := o.content(make([]byte, 1), k, 0)
		return err
	}
	if err := errors.Join(read(0), read(1)); err != nil {
		t.Fatal(err)
	}
	whole := o.image
	o.image = bytes.NewReader(nil)
	if err := read(2); err == nil {
		t.Fatal("a stream of nothing was read")
	}
	for k := range 3 {
		if read(k) == nil {
			t.Errorf("stream %d is there", k)
		}
	}
	o.image = whole
	if err := errors.Join(read(0), read(1), read(2)); err != nil {
		t.Error(err)
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

// TestWhatIsLeftIsGone: a device has a large codec alone in its memory, before the next one
// takes some.
func TestWhatIsLeftIsGone(t *testing.T) {
	for _, codec := range []Codec{Zstd, LZMA, LZMA2} {
		var r Reader
		var w Writer
		s := Stream{Codec: codec}
		if err := errors.Join(r.Reset(s, bytes.NewReader(nil), nil), w.Reset(s, nil)); err != nil {
			t.Fatal(err)
		}
		left := collections(1)
		r.leave(codec, &left)
		w.leave(codec, &left)
		r.leave(Deflate, &left)
		w.leave(DeflateParsed, &left)
		if r.lzma == nil && r.zstd == nil || w.lzma == nil && w.zstd == nil {
			t.Errorf("codec %d goes before another of its own, or a small one", codec)
		}
		var gone atomic.Int32
		for _, p := range []any{r.lzma, r.zstd, w.lzma, w.zstd} {
			switch p := p.(type) {
			case *lzmaparse.Reader:
				counted(p, &gone)
			case *lzmaparse.Writer:
				counted(p, &gone)
			case *zstdparse.Reader:
				counted(p, &gone)
			case *zstdparse.Writer:
				counted(p, &gone)
			}
		}
		next := Zstd
		if codec == Zstd {
			next = LZMA
		}
		// One collection for both: the next one finds what the first one left.
		w.leave(next, new(collections))
		r.leave(next, &left)
		if left != 0 {
			t.Errorf("%d collections are left", left)
		}
		if r.lzma != nil || r.zstd != nil || w.lzma != nil || w.zstd != nil {
			t.Errorf("codec %d stays", codec)
		}
		for deadline := time.Now().Add(time.Minute); gone.Load() < 2; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("codec %d: %d of 2 were collected", codec, gone.Load())
			}
		}
	}
}

// counted counts v when it was collected.
func counted[T any](v *T, gone *atomic.Int32) {
	if v != nil {
		runtime.AddCleanup(v, func(int) { gone.Add(1) }, 0)
	}
}

// TestCollectionsAreFew, however often codecs alternate.
func TestCollectionsAreFew(t *testing.T) {
	_, d := newPair(t).decoder(t)
	old := newOld(&Head{}, nil, nil)
	for what, left := range map[string]*collections{"the stream that is made": &d.collections, "those of the old image": &old.collections} {
		if *left != mostCollections {
			t.Errorf("%d for %s", *left, what)
		}
		for range 2 * mostCollections {
			left.collect()
		}
		if *left != 0 {
			t.Errorf("%d are left for %s", *left, what)
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

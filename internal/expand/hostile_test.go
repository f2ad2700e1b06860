package expand

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"groundswell/internal/deflate"
	"groundswell/internal/delta"
)

// way is how the streams of these tests are made.
var way = deflate.Way{Maker: deflate.Zlib, Level: 6, MemLevel: 8}

func stream(t testing.TB, content []byte) []byte {
	t.Helper()
	w := &deflate.Writer{}
	if err := w.Reset(way); err != nil {
		t.Fatal(err)
	}
	return w.Finish(w.Write(nil, content))
}

func text(version, n int) []byte {
	var out []byte
	for i := 0; len(out) < n; i++ {
		out = fmt.Appendf(out, "%d %d\n", i, i*i%(97+version))
	}
	return out[:n]
}

// pair is two images with a stream each, and the head and the inner delta between them,
// with what an encoder would not write: the caller may change the head.
type pair struct {
	old, new []byte
	head     Head
	inner    []byte
	ends     []int64
}

func newPair(t testing.TB) *pair { return pairOf(t, 40_000) }

// pairOf is one with so many bytes of content.
func pairOf(t testing.TB, size int) *pair {
	t.Helper()
	p := &pair{}
	var expandedOld, expandedNew []byte
	build := func(version int) (image, expanded []byte, s []Stream) {
		content := text(version, size)
		raw := stream(t, content)
		image = bytes.Join([][]byte{[]byte("before it"), raw, []byte("and behind it")}, nil)
		expanded = bytes.Join([][]byte{[]byte("before it"), content, []byte("and behind it")}, nil)
		return image, expanded, []Stream{{At: 9, Length: int64(len(raw)), Size: int64(len(content)), Way: way}}
	}
	p.old, expandedOld, p.head.Old = build(1)
	p.new, expandedNew, p.head.New = build(2)
	p.head.OldLength, p.head.NewLength = int64(len(p.old)), int64(len(p.new))
	// The first unit ends inside of the stream: all of it comes with its end.
	p.ends = []int64{9 + int64(size), int64(len(expandedNew))}
	half := int64(len(p.new) / 2)
	p.head.Units = []Unit{{Start: 0, Size: half}, {Start: half, Size: p.head.NewLength - half}}
	var inner bytes.Buffer
	if err := delta.Encode(context.Background(), &inner, expandedOld, expandedNew, delta.Options{Ends: p.ends}); err != nil {
		t.Fatal(err)
	}
	p.inner = inner.Bytes()
	return p
}

// bytes is the delta, with the right sums.
func (p *pair) bytes(t testing.TB) []byte {
	t.Helper()
	head, err := delta.ReadHead(bytes.NewReader(p.inner))
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.head.Units {
		if s := head.Segments; i < len(s) {
			p.head.Units[i].Sum = Sum(p.inner[s[i].Offset : s[i].Offset+s[i].Length])
		}
	}
	raw, err := p.head.Marshal(p.inner[:head.Length], p.ends)
	if err != nil {
		t.Fatal(err)
	}
	return append(raw, p.inner[head.Length:]...)
}

// nowhere is a scratch that nothing may be written to.
type nowhere struct{}

func (nowhere) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) WriteAt([]byte, int64) (int, error)    { return 0, errors.New("no room") }

// decode is what a delta makes of an image, and the first error.
func decode(raw, old []byte) ([]byte, error) {
	h, err := ReadHead(raw)
	if err != nil {
		return nil, err
	}
	d, err := NewDecoder(h, bytes.NewReader(old), nowhere{})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for n := range h.Units {
		if err := d.Unit(n, bytes.NewReader(raw), &out); err != nil {
			return out.Bytes(), err
		}
		if out.Len() > 1<<20 {
			break
		}
	}
	return out.Bytes(), nil
}

func TestAPairIsMade(t *testing.T) {
	p := newPair(t)
	got, err := decode(p.bytes(t), p.old)
	if err != nil || !bytes.Equal(got, p.new) {
		t.Fatalf("%d bytes of %d, or others: %v", len(got), len(p.new), err)
	}
}

// recipe is a delta with another recipe than an encoder would write.
func recipe(t testing.TB, list, inner []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 9)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(list); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return framed(append(append(binary.AppendUvarint(nil, uint64(out.Len())), out.Bytes()...), inner...))
}

func framed(body []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(magic+"\x01"), uint32(len(body))), body...)
}

// versioned is a delta that says it is of another version of the format.
func versioned(version byte, raw []byte) []byte {
	raw[len(magic)] = version
	return raw
}

func numbered(numbers ...uint64) (out []byte) {
	for _, n := range numbers {
		out = binary.AppendUvarint(out, n)
	}
	return out
}

func TestHostileHeads(t *testing.T) {
	whole := newPair(t).bytes(t)
	inner := newPair(t).inner
	head, err := delta.ReadHead(bytes.NewReader(inner))
	if err != nil {
		t.Fatal(err)
	}
	inner = inner[:head.Length]
	size, err := HeadLength(whole)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(p *pair)) []byte {
		p := newPair(t)
		change(p)
		return p.bytes(t)
	}
	for _, test := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"cut in its length", whole[:6], ErrTruncated},
		{"cut", whole[:size-1], ErrTruncated},
		{"a plain delta", inner, ErrCorrupt},
		{"something else", []byte("PK\x03\x04 and so on"), ErrCorrupt},
		{"a later version", append([]byte("gsx\x04"), whole[4:]...), ErrVersion},
		{"a codec of a later version", versioned(2, with(func(p *pair) { p.head.Old[0].Codec = DeflateParsed })), ErrVersion},
		{"a codec of no version", with(func(p *pair) { p.head.Old[0].Codec = codecs }), ErrVersion},
		{"a way of what stands parsed", with(func(p *pair) { p.head.New[0].Codec = DeflateParsed }), ErrVersion},
		{"an announced length beyond bounds", binary.LittleEndian.AppendUint32([]byte(magic+"\x01"), MaxHead+1), ErrTooLarge},
		{"an empty body", framed(nil), ErrTruncated},
		{"a recipe longer than the head", framed(numbered(1000)), ErrTruncated},
		{"a recipe beyond bounds", framed(append(numbered(maxRecipe+1), make([]byte, maxRecipe+1)...)), ErrTooLarge},
		{"a recipe that is none", framed(append(numbered(3), 0xff, 0xff, 0xff)), ErrCorrupt},
		{"a bomb", recipe(t, make([]byte, maxRecipeSize+1), inner), ErrTooLarge},
		{"no inner head", recipe(t, numbered(0, 0, 0, 0, 0), nil), delta.ErrTruncated},
		{"bytes behind the inner head", recipe(t, numbered(0, 0, 0, 0, 0), append(bytes.Clone(inner), 0)), ErrCorrupt},
		{"an empty recipe", recipe(t, nil, inner), ErrTruncated},
		{"a number without end", recipe(t, bytes.Repeat([]byte{0x80}, 20), inner), ErrTooLarge},
		{"too large an image", recipe(t, numbered(delta.MaxImage+1, 0, 0, 0, 0), inner), ErrTooLarge},
		{"too many streams", recipe(t, numbered(9, 9, MaxStreams+1, 0, 0), inner), ErrTooLarge},
		{"streams that do not come", recipe(t, numbered(9, 9, MaxStreams, 0, 0), inner), ErrTruncated},
		{"units that do not come", recipe(t, numbered(9, 9, 0, 0, 1<<16), inner), ErrTruncated},
		{"bytes left over", with(func(p *pair) { p.ends = append(p.ends, p.ends[1]) }), ErrCorrupt},
		{"an unknown maker", with(func(p *pair) { p.head.New[0].Way.Maker = 7 }), ErrVersion},
		{"no level", with(func(p *pair) { p.head.New[0].Way.Level = 0 }), ErrVersion},
		{"a stream beyond the old image", with(func(p *pair) { p.head.Old[0].Length += 14 }), ErrOffset},
		{"a stream beyond the new image", with(func(p *pair) { p.head.New[0].Length = p.head.NewLength }), ErrOffset},
		{"a stream of nothing", with(func(p *pair) { p.head.Old[0].Length = 0 }), ErrOffset},
		{"a stream of no content", with(func(p *pair) { p.head.New[0].Size = 0 }), ErrCorrupt},
		{"too small a stream", with(func(p *pair) { p.head.Old[0].Size = LeastStream - 1 }), ErrCorrupt},
		{"content beyond bounds", with(func(p *pair) { p.head.New[0].Size = delta.MaxImage }), ErrTooLarge},
		{"more content than the inner delta has", with(func(p *pair) { p.head.Old[0].Size++ }), ErrCorrupt},
		{"a unit of nothing", with(func(p *pair) { p.head.Units[0].Size = 0 }), ErrCorrupt},
		{"too large a unit", with(func(p *pair) { p.head.Units[0].Size = delta.MaxSegment + 1 }), ErrTooLarge},
		{"units of another length", with(func(p *pair) { p.head.Units[1].Size++ }), ErrCorrupt},
		{"a unit that ends inside a segment", with(func(p *pair) { p.ends[0]-- }), ErrCorrupt},
		{"units that end early", with(func(p *pair) { p.ends[1] = p.ends[0] }), ErrCorrupt},
		{"units that end too late", with(func(p *pair) { p.ends[1]++ }), ErrCorrupt},
		{"no units", with(func(p *pair) { p.head.Units, p.ends = nil, nil }), ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			if h, err := ReadHead(test.raw); !errors.Is(err, test.want) || h != nil {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestHostileUnits(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(p *pair)
		spoil  func(raw []byte) // behind the sums
		want   error
	}{
		{"a wrong byte", nil, func(raw []byte) { raw[len(raw)-1]++ }, ErrSum},
		{"a stream made in another way", func(p *pair) { p.head.New[0].Way.Level = 1 }, nil, ErrCorrupt},
		{"a stream of another length", func(p *pair) {
			p.head.New[0].Length++
			p.head.NewLength++
			p.head.Units[1].Size++
		}, nil, ErrCorrupt},
		{"another old image", func(p *pair) { p.old[12] ^= 0xff }, nil, ErrCorrupt},
		{"a shorter old image", func(p *pair) { p.old = p.old[:5000] }, nil, nil},
		{"a unit that makes too little", func(p *pair) {
			p.head.Units[0].Size += p.head.Units[1].Size - 3
			p.head.Units[1].Size = 3
		}, nil, ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t)
			if test.change != nil {
				test.change(p)
			}
			raw := p.bytes(t)
			if test.spoil != nil {
				test.spoil(raw)
			}
			if _, err := decode(raw, p.old); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// TestAUnitMakesNotMuchMoreThanItsOwn: however much it has.
func TestAUnitMakesNotMuchMoreThanItsOwn(t *testing.T) {
	p := &pair{}
	plain := make([]byte, 3*maxAhead)
	p.head.OldLength, p.head.NewLength = int64(len(plain)), int64(len(plain))
	p.old = plain
	p.head.Units = []Unit{{Size: 1000}, {Size: int64(len(plain)) - 1000}}
	p.ends = []int64{2*maxAhead + 1000, int64(len(plain))}
	var ends []int64
	for at := int64(1000); at < p.ends[0]; at += 100_000 {
		ends = append(ends, at)
	}
	ends = append(ends, p.ends...)
	var inner bytes.Buffer
	if err := delta.Encode(t.Context(), &inner, plain, plain, delta.Options{Ends: ends}); err != nil {
		t.Fatal(err)
	}
	p.inner = inner.Bytes()
	head, err := delta.ReadHead(&inner)
	if err != nil {
		t.Fatal(err)
	}
	last := head.Segments[len(head.Segments)-1]
	p.head.Units[0].Sum, p.head.Units[1].Sum = Sum(p.inner[head.Length:last.Offset]), Sum(p.inner[last.Offset:])
	raw, err := p.head.Marshal(p.inner[:head.Length], p.ends)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(append(raw, p.inner[head.Length:]...), plain); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// TestAScratchThatFailsIsAnError, and nothing is made.
func TestAScratchThatFailsIsAnError(t *testing.T) {
	content := text(1, small+1)
	raw := stream(t, content)
	h := &Head{OldLength: int64(len(raw)), Old: []Stream{{Length: int64(len(raw)), Size: int64(len(content))}}}
	if h.Scratch() != small+1 {
		t.Errorf("scratch of %d", h.Scratch())
	}
	if _, err := place(h.Old, h.OldLength); err != nil {
		t.Fatal(err)
	}
	o := newOld(h, bytes.NewReader(raw), nowhere{})
	for range 2 { // the second time as well
		if n, err := o.ReadAt(make([]byte, 100), 0); n != 0 || err == nil || err.Error() != "no room" {
			t.Errorf("%d, %v", n, err)
		}
	}
}

// TestTheOldImageIsReadAnyhow: at any place, as much as wanted.
func TestTheOldImageIsReadAnyhow(t *testing.T) {
	var image, want []byte
	h := &Head{}
	for i, n := range []int{LeastStream, 50_000, 300, small, small + 70_000, 200_000, 400} {
		gap := text(i, i*37%100)
		content := text(i, n)
		raw := stream(t, content)
		h.Old = append(h.Old, Stream{At: int64(len(image) + len(gap)), Length: int64(len(raw)), Size: int64(n)})
		image = append(append(image, gap...), raw...)
		want = append(append(want, gap...), content...)
	}
	image, want = append(image, "behind"...), append(want, "behind"...)
	h.OldLength = int64(len(image))
	if n, err := place(h.Old, h.OldLength); err != nil || n != int64(len(want)) {
		t.Fatalf("%d, %v", n, err)
	}
	o := newOld(h, bytes.NewReader(image), &Memory{})
	random := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		at := random.IntN(len(want))
		p := make([]byte, 1+random.IntN(min(len(want)-at, 200_000)))
		if n, err := o.ReadAt(p, int64(at)); n != len(p) || err != nil || !bytes.Equal(p, want[at:at+n]) {
			t.Fatalf("[%d, %d): %d bytes, or others: %v", at, at+len(p), n, err)
		}
	}
	if n, err := o.ReadAt(make([]byte, 10), int64(len(want))-4); n != 4 || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
	if len(o.room) != small {
		t.Errorf("room for %d bytes, the longest that is not in the scratch has %d", len(o.room), small)
	}
}

func FuzzExpanded(f *testing.F) {
	p := pairOf(f, 2_000)
	f.Add(p.bytes(f))
	other := pairOf(f, 2_000)
	other.head.New[0].Way = deflate.Way{Maker: deflate.Gzip, Level: 9}
	f.Add(other.bytes(f))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := ReadHead(raw); err == nil && h.Inner.NewLength > 1<<22 {
			return // it is as long as it says
		}
		_, _ = decode(raw, p.old) // neither a panic nor endless
	})
}

// FuzzRecipe leaves out the compression and the inner head.
func FuzzRecipe(f *testing.F) {
	p := pairOf(f, 2_000)
	head, err := delta.ReadHead(bytes.NewReader(p.inner))
	if err != nil {
		f.Fatal(err)
	}
	list := numbered(uint64(p.head.OldLength), uint64(p.head.NewLength))
	list = appendStreams(appendStreams(list, p.head.Old, versionDeflate, false), p.head.New, versionDeflate, true)
	list = append(list, numbered(2, uint64(p.head.Units[0].Size), uint64(p.head.Units[1].Size), uint64(p.ends[0]), uint64(p.ends[1]-p.ends[0]))...)
	for i := range 2 {
		s := head.Segments[i]
		list = binary.LittleEndian.AppendUint32(list, Sum(p.inner[s.Offset:s.Offset+s.Length]))
	}
	f.Add(list)
	if got, err := decode(append(recipe(f, list, p.inner[:head.Length]), p.inner[head.Length:]...), p.old); err != nil || !bytes.Equal(got, p.new) {
		f.Fatalf("%d bytes of %d, or others: %v", len(got), len(p.new), err)
	}
	f.Fuzz(func(t *testing.T, list []byte) {
		_, _ = decode(append(recipe(t, list, p.inner[:head.Length]), p.inner[head.Length:]...), p.old)
	})
}

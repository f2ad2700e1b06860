package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// hostileHead is a head of given numbers, in the order of the format.
func hostileHead(numbers ...uint64) []byte {
	var body []byte
	for _, n := range numbers {
		body = binary.AppendUvarint(body, n)
	}
	return framed(body)
}

func framed(body []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(magic+"\x01"), uint32(len(body))), body...)
}

// withCopies is the head of an encoder that keeps to no bounds.
func withCopies(old, new int64, copies ...copied) []byte {
	h := &Head{OldLength: old, NewLength: new, Coder: Mixed, copies: packCopies(copies), Segments: []Segment{{Size: new, Length: 10}}}
	return h.marshal()
}

func TestHostileHeads(t *testing.T) {
	whole := withCopies(1000, 1000, copied{0, 0, 500}, copied{600, 500, 100})
	for _, test := range []struct {
		name string
		head []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"cut in its length", whole[:6], ErrTruncated},
		{"cut", whole[:len(whole)-1], ErrTruncated},
		{"something else", []byte("PK\x03\x04 and so on"), ErrCorrupt},
		{"a later version", append([]byte("gsd\x03"), whole[4:]...), ErrVersion},
		{"an announced length beyond bounds", binary.LittleEndian.AppendUint32([]byte(magic+"\x01"), MaxHead+1), ErrTooLarge},
		{"an announced length that does not come", binary.LittleEndian.AppendUint32([]byte(magic+"\x01"), MaxHead), ErrTruncated},
		{"an empty body", framed(nil), ErrTruncated},
		{"a number without end", framed(bytes.Repeat([]byte{0x80}, 20)), ErrTooLarge},
		{"too large an old image", hostileHead(MaxImage+1, 0, 0, 0, 0, 0), ErrTooLarge},
		{"too large a new image", hostileHead(0, math.MaxUint64, 0, 0, 0, 0), ErrTooLarge},
		{"an unknown coder", hostileHead(0, 0, 7, 0, 0, 0), ErrVersion},
		{"too many segments", hostileHead(0, 0, 0, MaxSegments+1, 0, 0), ErrTooLarge},
		{"segments that do not come", hostileHead(0, 0, 0, MaxSegments, 0, 0), ErrTruncated},
		{"too many copies", hostileHead(0, 0, 0, 0, MaxCopies+1, 0), ErrTooLarge},
		{"too many programs", hostileHead(0, 0, 0, 0, 0, maxSpaces+1), ErrTooLarge},
		{"too large a segment", hostileHead(0, MaxSegment+1, 0, 1, 0, 0, MaxSegment+1, 5), ErrTooLarge},
		{"a segment longer than what it makes", hostileHead(0, 5, 0, 1, 0, 0, 5, 5+segmentSlack+1), ErrTooLarge},
		{"a segment of nothing", hostileHead(0, 0, 0, 1, 0, 0, 0, 5), ErrCorrupt},
		{"segments of another length", hostileHead(0, 6, 0, 1, 0, 0, 5, 5), ErrCorrupt},
		{"a program outside", hostileHead(5, 0, 0, 0, 0, 1, 5, 0), ErrOffset},
		{"too many loads", hostileHead(5, 0, 0, 0, 0, 1, 0, maxLoads+1, 0), ErrTooLarge},
		{"bytes for no copies", hostileHead(0, 0, 0, 0, 0, 0, 1), ErrCorrupt},
		{"a copy beyond the new image", withCopies(1000, 1000, copied{600, 0, 401}), ErrOffset},
		{"a copy beyond the old image", withCopies(1000, 1000, copied{0, 600, 401}), ErrOffset},
		{"more copies than came", hostileHead(5, 5, 1, 1, 1000, 0, 5, 5, 0x12), ErrOffset},
		{"bytes behind the copies", framed(append(whole[8:], make([]byte, 100)...)), ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			if h, err := ReadHead(bytes.NewReader(test.head)); !errors.Is(err, test.want) || h != nil {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}

// endless never ends, and counts.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = (magic + "\x01")[(int(e.read)+i)%(len(magic)+1)]
	}
	e.read += int64(len(p))
	return len(p), nil
}

func TestHeadIsNotReadWithoutEnd(t *testing.T) {
	e := new(endless)
	if _, err := ReadHead(e); !errors.Is(err, ErrTooLarge) || e.read > 8 {
		t.Errorf("%v after %d bytes", err, e.read)
	}
}

func TestErrorOfTheReaderStays(t *testing.T) {
	broken := errors.New("broken")
	_, err := ReadHead(io.MultiReader(bytes.NewReader([]byte(magic+"\x01\xff\x00\x00\x00")), brokenReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error)          { return 0, b.err }
func (b brokenReader) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func frame(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func TestHostileSegments(t *testing.T) {
	old := bytes.Repeat([]byte("old bytes "), 100)
	h := &Head{OldLength: 1000, NewLength: 1000, copies: packCopies([]copied{{0, 0, 600}})}
	bomb := frame(t, make([]byte, 64<<20))
	delta := func(diff, literals []byte) []byte {
		return append(binary.AppendUvarint([]byte{byte(methodDelta), 0, 0}, uint64(len(diff))), append(diff, literals...)...)
	}
	good := delta(frame(t, make([]byte, 600)), frame(t, make([]byte, 400)))
	mixed := bytes.Repeat([]byte{0xa7, 0x31, 0x5c}, 300)
	for _, test := range []struct {
		name string
		data []byte
		want error
	}{
		{"as it should be", good, nil},
		{"nothing", nil, ErrTruncated},
		{"only the method", []byte{byte(methodMixed)}, ErrTruncated},
		{"an unknown method", []byte{99, 0, 0}, ErrVersion},
		{"an unknown pass", []byte{byte(methodMixed), 0, 0x80}, ErrVersion},
		{"too few stored", make([]byte, 1000), ErrTruncated},
		{"too many stored", make([]byte, 1002), ErrTooLarge},
		{"no frame", append([]byte{byte(methodZstd)}, "something else"...), ErrCorrupt},
		{"a short frame", append([]byte{byte(methodZstd)}, frame(t, make([]byte, 999))...), ErrTruncated},
		{"a long frame", append([]byte{byte(methodZstd)}, frame(t, make([]byte, 1001))...), ErrTooLarge},
		{"a bomb", append([]byte{byte(methodZstd)}, bomb...), ErrTooLarge},
		{"a bomb of differences", delta(bomb, nil), ErrTooLarge},
		{"a bomb of literals", delta(frame(t, make([]byte, 600)), bomb), ErrTooLarge},
		{"no length of differences", []byte{byte(methodDelta), 0, 0}, ErrTruncated},
		{"differences beyond the end", []byte{byte(methodDelta), 0, 0, 200, 1, 0}, ErrTruncated},
		{"too few differences", delta(frame(t, make([]byte, 599)), frame(t, make([]byte, 401))), ErrTruncated},
		{"stored differences, stored literals", delta(make([]byte, 600), make([]byte, 400)), nil},
		{"too many differences", delta(frame(t, make([]byte, 601)), frame(t, make([]byte, 399))), ErrTooLarge},
		{"too few literals", delta(frame(t, make([]byte, 600)), frame(t, make([]byte, 399))), ErrTruncated},
		{"too few stored literals", append([]byte{byte(methodLiteral), 0, 0}, make([]byte, 399)...), ErrTruncated},
		{"mixed, cut", append([]byte{byte(methodMixed), 0, 0}, mixed[:5]...), ErrTruncated},
		{"mixed, and more behind it", append(append([]byte{byte(methodLiteral), 0, 0}, make([]byte, 400)...), make([]byte, 200)...), ErrCorrupt},
	} {
		t.Run(test.name, func(t *testing.T) {
			h.Segments = []Segment{{Size: 1000, Length: int64(len(test.data))}}
			d, err := NewDecoder(h, bytes.NewReader(old))
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Segment(nil, 0, test.data)
			if !errors.Is(err, test.want) || err != nil && got != nil {
				t.Errorf("%d bytes and %v, want %v", len(got), err, test.want)
			}
		})
	}
	t.Run("another length than announced", func(t *testing.T) {
		h.Segments = []Segment{{Size: 1000, Length: int64(len(good))}}
		d, err := NewDecoder(h, bytes.NewReader(old))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Segment(nil, 0, good[:len(good)-1]); !errors.Is(err, ErrTruncated) {
			t.Errorf("one byte less: %v", err)
		}
		if _, err := d.Segment(nil, 0, append(good, 0)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one byte more: %v", err)
		}
		for _, i := range []int{-1, 1} {
			if _, err := d.Segment(nil, i, good); !errors.Is(err, ErrSegment) {
				t.Errorf("segment %d: %v", i, err)
			}
		}
	})
	t.Run("an old image that is too short", func(t *testing.T) {
		d, err := NewDecoder(h, bytes.NewReader(old[:500]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Segment(nil, 0, good); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
	t.Run("an old image that cannot be read", func(t *testing.T) {
		broken := errors.New("broken")
		d, err := NewDecoder(h, brokenReader{broken})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Segment(nil, 0, good); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	})
}

// Whatever is damaged, the decoder ends, with wrong bytes or a sentinel.
func TestDamagedDeltas(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	old := make([]byte, 50_000)
	for i := range old {
		old[i] = byte(r.IntN(8) * i)
	}
	new := bytes.Clone(old)
	for range 300 {
		new[r.IntN(len(new))]++
	}
	new = append(new[:30_000], new[20_000:]...)
	for _, coder := range []Coder{Zstd, Mixed} {
		var made bytes.Buffer
		if err := Encode(context.Background(), &made, old, new, Options{Coder: coder, Ends: []int64{25_000, int64(len(new))}}); err != nil {
			t.Fatal(err)
		}
		h, err := ReadHead(bytes.NewReader(made.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range h.Segments {
			if m := method(made.Bytes()[s.Offset]); m.models() != (coder == Mixed) {
				t.Fatalf("%v: segment %d is coded by method %d", coder, i, m)
			}
		}
		for range 2000 {
			data := bytes.Clone(made.Bytes())
			for range 1 + r.IntN(3) {
				data[r.IntN(len(data))] = byte(r.Uint32())
			}
			if r.IntN(4) == 0 {
				data = data[:r.IntN(len(data))]
			}
			decodeHostile(t, old, data)
		}
	}
}

// decodeHostile decodes what may be anything, and fails the test if it is refused
// without a sentinel or makes what it must not.
func decodeHostile(t *testing.T, old, data []byte) {
	t.Helper()
	h, err := ReadHead(bytes.NewReader(data))
	if err != nil {
		mustBeSentinel(t, err)
		return
	}
	if h.OldLength > int64(len(old)) {
		return // the caller compares it with its image
	}
	d, err := NewDecoder(h, bytes.NewReader(old))
	if err != nil {
		t.Fatalf("the old image is there: %v", err)
	}
	var out []byte
	for i, s := range h.Segments {
		from := min(s.Offset, int64(len(data)))
		got, err := d.Segment(out[:0], i, data[from:min(s.Offset+s.Length, int64(len(data)))])
		if err != nil {
			mustBeSentinel(t, err)
			return
		}
		if int64(len(got)) != s.Size {
			t.Fatalf("segment of %d bytes, want %d", len(got), s.Size)
		}
		out = got
	}
}

func mustBeSentinel(t *testing.T, err error) {
	t.Helper()
	for _, sentinel := range []error{ErrTruncated, ErrCorrupt, ErrTooLarge, ErrOffset, ErrVersion} {
		if errors.Is(err, sentinel) {
			return
		}
	}
	t.Fatalf("%v is none of the sentinels", err)
}

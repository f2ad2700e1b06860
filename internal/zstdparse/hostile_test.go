package zstdparse

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

var sentinels = []error{ErrTruncated, ErrCorrupt, ErrTooLarge, ErrTooFar, ErrUnsupported}

func isSentinel(err error) bool {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

// read takes a frame apart that may be hostile.
func read(t testing.TB, r *Reader, frame []byte) ([]byte, int, error) {
	t.Helper()
	var b backed
	src := bytes.NewReader(frame)
	err := b.all(r, src)
	if err != nil && !isSentinel(err) {
		t.Fatalf("no sentinel: %v", err)
	}
	if _, again := r.Read(make([]byte, 1)); err != nil && again != err || err == nil && again != io.EOF {
		t.Fatalf("after %v: %v", err, again)
	}
	readerBounds(t, r)
	return b.form, len(frame) - src.Len(), err
}

// write makes a frame of a form that may be hostile.
func write(t testing.TB, w *Writer, form []byte, piece int) ([]byte, error) {
	t.Helper()
	w.Reset()
	var out []byte
	var err error
	for rest := form; len(rest) > 0 && err == nil; {
		n := min(piece, len(rest))
		out, err = w.Write(out, rest[:n])
		rest = rest[n:]
	}
	out, last := w.Finish(out)
	if err == nil {
		err = last
	}
	if err != nil && !isSentinel(err) || !errors.Is(last, err) {
		t.Fatalf("%v, then %v", err, last)
	}
	if n := cap(w.buf) + cap(w.literal); n > 2<<20 {
		t.Fatalf("%d bytes kept", n)
	}
	return out, err
}

// seeds are small frames with all that a frame may have.
func seeds(t testing.TB) [][]byte {
	text := prose(6, 40_000)
	list := [][]byte{zstd(t, nil, true), zstd(t, nil, false, "--no-check"), zstd(t, make([]byte, 150_000), true), zstd(t, noise(1, 500), true)}
	for _, args := range [][]string{{"-1"}, {"-19"}, {"--no-check"}, {"--target-compressed-block-size=1400", "-6"}, {"--no-compress-literals"}} {
		for _, n := range []int{40, 300, 3000, 40_000} {
			list = append(list, zstd(t, text[:n], n%200 == 0, args...))
		}
	}
	long := append(bytes.Repeat([]byte("abcdefgh"), 300), text[:3000]...)
	return append(list, zstd(t, append(append(long, noise(2, 1000)...), long...), true))
}

// frameOf is a frame of such blocks, without its size or a checksum.
func frameOf(blocks ...[]byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x58}
	for _, b := range blocks {
		frame = append(frame, b...)
	}
	return frame
}

func block(last bool, kind, size int, body ...byte) []byte {
	v := uint32(size)<<3 | uint32(kind)<<1
	if last {
		v |= 1
	}
	b := make([]byte, 3)
	put24(b, v)
	return append(b, body...)
}

func TestHostileFrames(t *testing.T) {
	packed := func(body ...byte) []byte { return frameOf(block(true, blockCompressed, len(body), body...)) }
	for name, c := range map[string]struct {
		frame []byte
		want  error
	}{
		"nothing":                  {nil, ErrTruncated},
		"another magic number":     {[]byte{0x28, 0xb5, 0x2f, 0xfe, 0, 0}, ErrCorrupt},
		"skippable":                {[]byte{0x5a, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9}, ErrUnsupported},
		"a dictionary":             {[]byte{0x28, 0xb5, 0x2f, 0xfd, 1, 0x58, 7, 1, 0, 0}, ErrUnsupported},
		"a reserved bit":           {[]byte{0x28, 0xb5, 0x2f, 0xfd, 8, 0x58, 1, 0, 0}, ErrCorrupt},
		"a reserved kind of block": {frameOf(block(true, 3, 1, 1)), ErrCorrupt},
		"a long raw block":         {frameOf(block(true, blockRaw, maxBlock+1, make([]byte, maxBlock+1)...)), ErrCorrupt},
		"a long run":               {frameOf(block(true, blockRLE, maxBlock+1, 1)), ErrCorrupt},
		"an empty block":           {packed(), ErrCorrupt},
		"no sequences section":     {packed(0), ErrCorrupt},
		"more than the sections":   {packed(0, 0, 0), ErrCorrupt},
		"raw literals, too few":    {packed(5<<3, 1, 2), ErrCorrupt},
		"literals of 1 MB":         {packed(literalsRLE|3<<2|0xf0, 0xff, 0xff, 7, 0), ErrCorrupt},
		"a tree of before":         {packed(literalsTreeless|4<<4, 0x40, 0, 1, 0), ErrCorrupt},
		"tables of before":         {packed(0, 1, 0xfc, 1), ErrCorrupt},
		"reserved modes":           {packed(0, 1, 1, 1), ErrCorrupt},
		"sequences without bits":   {packed(0, 1, 0), ErrCorrupt},
		"no final bit":             {packed(0, 1, 0, 0), ErrCorrupt},
		"a symbol beyond":          {packed(0, 1, 1<<6, 36, 1), ErrCorrupt},
		"too many sequences":       {packed(0, 255, 0, 0x80, 0, 1), ErrCorrupt},
		// One literal, one match of 3 at distance 4 (or 1): one bit too far.
		"before the begin": {packed(1<<3, 'a', 1, 0x54, 1, 2, 0, 1<<2|3), ErrCorrupt},
		"at the begin":     {packed(1<<3, 'a', 1, 0x54, 1, 2, 0, 1<<2), nil},
	} {
		var r Reader
		if _, _, err := read(t, &r, c.frame); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestHostileForms(t *testing.T) {
	begin := func(h head) []byte {
		b := make([]byte, headLength)
		h.put(b)
		return append(frameOf(), b...)
	}
	for name, c := range map[string]struct {
		form []byte
		want error
	}{
		"another magic number":     {[]byte("hello"), ErrCorrupt},
		"skippable":                {[]byte{0x5a, 0x2a, 0x4d, 0x18, 1}, ErrUnsupported},
		"a reserved kind":          {begin(head{kind: 3, last: true}), ErrCorrupt},
		"a long block":             {begin(head{content: maxBlock + 1}), ErrCorrupt},
		"a raw block's modes":      {begin(head{modes: 4}), ErrCorrupt},
		"many sequences":           {begin(head{kind: blockCompressed, content: 30, sequences: 11}), ErrCorrupt},
		"many long lengths":        {begin(head{kind: blockCompressed, content: 254, longs: 1}), ErrCorrupt},
		"no tree":                  {begin(head{kind: blockCompressed, literals: literalsCompressed}), ErrCorrupt},
		"a tree for nothing":       {begin(head{kind: blockCompressed, tree: 5}), ErrCorrupt},
		"modes for nothing":        {begin(head{kind: blockCompressed, modes: 0xfc}), ErrCorrupt},
		"a run without symbol":     {begin(head{kind: blockCompressed, content: 3, sequences: 1, modes: 0x40}), ErrCorrupt},
		"a tree of before":         {append(begin(head{kind: blockCompressed, literals: literalsTreeless, content: 1}), 'a'), ErrCorrupt},
		"tables of before":         {append(begin(head{kind: blockCompressed, sequences: 1, content: 3, modes: 0xfc}), 0, 0, 4, 0, 0, 0, 'a', 'b', 'c'), ErrCorrupt},
		"more than there is":       {append(begin(head{kind: blockCompressed, sequences: 1, content: 3}), 1, 0, 4, 0, 0, 0, 'a', 'b', 'c'), ErrCorrupt},
		"no long length":           {append(begin(head{kind: blockCompressed, sequences: 1, content: 3}), 255, 0, 4, 0, 0, 0, 'a', 'b', 'c'), ErrCorrupt},
		"no offset":                {append(begin(head{kind: blockCompressed, sequences: 1, content: 3}), 0, 0, 0, 0, 0, 0, 'a', 'b', 'c'), ErrCorrupt},
		"an offset without a code": {append(begin(head{kind: blockCompressed, sequences: 1, content: 3}), 0, 0, 0, 0, 0, 0x20, 'a', 'b', 'c'), ErrCorrupt},
		"many literals, one byte":  {append(begin(head{kind: blockCompressed, content: 32}), make([]byte, 32)...), ErrCorrupt},
	} {
		var w Writer
		if _, err := write(t, &w, c.form, 1000); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

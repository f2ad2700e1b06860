package lzmaparse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// memory is a scratch.
type memory struct{ data []byte }

func (m *memory) ReadAt(p []byte, at int64) (int, error) {
	if at > int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if need := int(at) + len(p); need > len(m.data) {
		m.data = append(m.data, make([]byte, need-len(m.data))...)
	}
	return copy(m.data[at:], p), nil
}

// content has what is near, what is far, and what is not in it before.
func content(n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([]byte, 0, n+1000)
	for i := 0; len(out) < n; i++ {
		switch r.IntN(4) {
		case 0:
			for range r.IntN(300) {
				out = append(out, byte(r.Uint32()))
			}
		case 1:
			out = fmt.Appendf(out, "line %d of chapter %d\n", r.IntN(50), i)
		default:
			if len(out) > 0 {
				at := r.IntN(len(out))
				out = append(out, out[at:min(len(out), at+r.IntN(700))]...)
			}
		}
	}
	return out[:n]
}

// xz compresses by the program; what comes back is the stream alone.
func xz(t testing.TB, data []byte, flags ...string) (stream []byte, kind Kind) {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c"}, flags...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if out[0] == 0x5d {
		return out, LZMA
	}
	return out[12+(int(out[12])+1)*4:], LZMA2
}

// parsed is the parsed form of a stream, and how long the stream is.
func parsed(stream []byte, kind Kind) (form []byte, length int, err error) {
	var r Reader
	src, back := bytes.NewReader(stream), &memory{}
	r.Reset(src, kind, back)
	buffer := make([]byte, 50_000)
	for {
		n, err := r.Read(buffer)
		back.data = append(back.data, buffer[:n]...)
		if err == io.EOF {
			return back.data, len(stream) - src.Len() - int(r.Ahead()), nil
		}
		if err != nil {
			return back.data, 0, err
		}
	}
}

// made is the stream of a parsed form, written in pieces.
func made(form []byte, kind Kind, piece int) (out []byte, err error) {
	var w Writer
	w.Reset(kind, &memory{})
	for len(form) > 0 && err == nil {
		n := min(piece, len(form))
		out, err = w.Write(out, form[:n])
		form = form[n:]
	}
	if err != nil {
		return out, err
	}
	return w.Finish(out)
}

func TestStreamsComeOutAsTheyWere(t *testing.T) {
	large := content(5 << 20)
	for _, flags := range [][]string{
		{"-0"}, {"-1"}, {"-6"}, {"-9e"}, {"--lzma2=preset=6,lc=0,lp=4,pb=4"}, {"--lzma2=preset=1,lc=4,pb=0"}, {"--x86", "--lzma2=dict=64KiB"},
		{"--format=lzma"}, {"--format=lzma", "-9e"},
	} {
		for name, data := range map[string][]byte{
			"large": large, "noise": noise(200_000), "zeros": make([]byte, 5<<20), "one byte": {7}, "some": large[:70_000],
			"both": append(append(noise(100_000), large[:300_000]...), noise(150_000)...),
		} {
			stream, kind := xz(t, data, flags...)
			form, length, err := parsed(stream, kind)
			if err != nil {
				t.Fatalf("%v, %s: %v", flags, name, err)
			}
			out, err := made(form, kind, 4093)
			if err != nil || !bytes.Equal(out, stream[:length]) || kind == LZMA && length != len(stream) {
				t.Fatalf("%v, %s: %d bytes of %d, or others: %v", flags, name, len(out), length, err)
			}
			if len(form) < len(data) || len(form) > len(data)+len(data)/50+8*len(stream)+100 {
				t.Errorf("%v, %s: the parsed form of %d bytes, compressed %d, has %d", flags, name, len(data), len(stream), len(form))
			}
		}
	}
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(data) // never fails
	return data
}

func TestPiecesDoNotMatter(t *testing.T) {
	stream, kind := xz(t, content(300_000), "-6")
	form, _, err := parsed(stream, kind)
	if err != nil {
		t.Fatal(err)
	}
	want, err := made(form, kind, len(form))
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []int{1, 13, 1000} {
		if got, err := made(form, kind, piece); err != nil || !bytes.Equal(got, want) {
			t.Errorf("in pieces of %d: %d bytes of %d, or others: %v", piece, len(got), len(want), err)
		}
	}
}

// TestFarMatchesNeedAKeeper, of what is behind the window.
func TestFarMatchesNeedAKeeper(t *testing.T) {
	data := noise(3 << 20)
	copy(data[2<<20:], data[:200_000])
	stream, kind := xz(t, data, "-6")
	var r Reader
	r.Reset(bytes.NewReader(stream), kind, nil)
	if _, err := io.Copy(io.Discard, &r); !errors.Is(err, ErrTooFar) {
		t.Errorf("a reader: %v", err)
	}
	form, _, err := parsed(stream, kind)
	if err != nil {
		t.Fatal(err)
	}
	var w Writer
	w.Reset(kind, nil)
	if _, err := w.Write(nil, form); !errors.Is(err, ErrTooFar) {
		t.Errorf("a writer: %v", err)
	}
}

// TestTheWholeWindowIsInMemory, to its last byte.
func TestTheWholeWindowIsInMemory(t *testing.T) {
	for _, distance := range []int{Window - 300, Window - 1, Window} {
		data := noise(distance + 1000)
		copy(data[distance:], data[:400])
		stream, kind := xz(t, data, "-6")
		var r Reader
		r.Reset(bytes.NewReader(stream), kind, nil)
		form, err := io.ReadAll(&r)
		if err != nil {
			t.Fatalf("at a distance of %d: %v", distance, err)
		}
		var w Writer
		w.Reset(kind, nil)
		out, err := w.Write(nil, form)
		if err == nil {
			out, err = w.Finish(out)
		}
		if err != nil || !bytes.HasPrefix(stream, out) {
			t.Errorf("at a distance of %d: %d bytes of %d, or others: %v", distance, len(out), len(stream), err)
		}
	}
}

func TestDamagedStreams(t *testing.T) {
	stream, _ := xz(t, content(200_000), "-6")
	alone, _ := xz(t, content(200_000), "--format=lzma")
	change := func(data []byte, at int, b byte) []byte {
		out := bytes.Clone(data)
		out[at] = b
		return out
	}
	chunk := func(body ...byte) []byte { return append([]byte{0xe0, 0, 0, 0, byte(len(body) - 1), 0x5d}, body...) }
	for name, c := range map[string]struct {
		stream []byte
		kind   Kind
		want   error
	}{
		"empty":                        {nil, LZMA2, ErrTruncated},
		"cut in a chunk":               {stream[:1000], LZMA2, ErrTruncated},
		"cut in a head":                {stream[:3], LZMA2, ErrTruncated},
		"no dictionary":                {change(stream, 0, 0x80), LZMA2, ErrCorrupt},
		"no state":                     {append([]byte{1, 0, 0, 7}, 0x80, 0, 0, 0, 4, 0, 0, 0, 0, 0), LZMA2, ErrCorrupt},
		"stored without a dictionary":  {[]byte{2, 0, 0, 7, 0}, LZMA2, ErrCorrupt},
		"an unknown control byte":      {change(stream, 0, 0x7f), LZMA2, ErrCorrupt},
		"too many literal bits":        {change(stream, 5, 8+9*4), LZMA2, ErrCorrupt},
		"properties beyond bounds":     {change(stream, 5, 255), LZMA2, ErrCorrupt},
		"a first byte that is not 0":   {change(stream, 6, 1), LZMA2, ErrCorrupt},
		"a chunk of four bytes":        {chunk(0, 0, 0, 0), LZMA2, ErrTruncated},
		"a match before the beginning": {chunk(0, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0), LZMA2, ErrCorrupt},
		"another byte within":          {change(stream, 5000, stream[5000]^1), LZMA2, ErrCorrupt},
		"LZMA: cut":                    {alone[:4000], LZMA, ErrTruncated},
		"LZMA: cut in the head":        {alone[:17], LZMA, ErrTruncated},
		"LZMA: a length beyond bounds": {change(alone, 12, 0xc0), LZMA, ErrTooLarge},
	} {
		if _, _, err := parsed(c.stream, c.kind); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestDamagedForms(t *testing.T) {
	stream, _ := xz(t, content(200_000), "-6")
	form, _, err := parsed(stream, LZMA2)
	if err != nil {
		t.Fatal(err)
	}
	alone, _ := xz(t, content(20_000), "--format=lzma")
	aloneForm, _, err := parsed(alone, LZMA)
	if err != nil {
		t.Fatal(err)
	}
	records := func(content int, list ...record) []byte {
		var parse []byte
		for _, r := range list {
			parse = r.append(parse)
		}
		g := group{begin: beginDictionary, last: true, properties: 0x5d, parse: len(parse), content: content}
		return append(append(g.append(nil), parse...), make([]byte, content)...)
	}
	put := func(at int, v uint32) []byte {
		out := bytes.Clone(form)
		binary.LittleEndian.PutUint32(out[at:], v)
		return out
	}
	stored := func(n int) []byte {
		return append(group{begin: beginStoredIn, last: true, content: n}.append(nil), make([]byte, n)...)
	}
	for name, c := range map[string]struct {
		form []byte
		kind Kind
		want error
	}{
		"empty":                        {nil, LZMA, ErrTruncated},
		"cut":                          {form[:len(form)-1], LZMA2, ErrTruncated},
		"cut in a head":                {form[:5], LZMA2, ErrTruncated},
		"too much content":             {put(4, maxContent+1), LZMA2, ErrTooLarge},
		"too much parse":               {put(8, maxParse+1), LZMA2, ErrTooLarge},
		"an unknown beginning":         {append([]byte{15}, form[1:]...), LZMA2, ErrCorrupt},
		"nothing to go on with":        {append([]byte{0}, form[1:]...), LZMA2, ErrCorrupt},
		"no dictionary":                {append([]byte{byte(beginChunk)}, form[1:]...), LZMA2, ErrCorrupt},
		"bad properties":               {append([]byte{byte(beginDictionary), 255}, form[2:]...), LZMA2, ErrCorrupt},
		"of another kind":              {form, LZMA, ErrCorrupt},
		"of another kind, LZMA":        {aloneForm, LZMA2, ErrCorrupt},
		"LZMA, cut":                    {aloneForm[:len(aloneForm)-1], LZMA, ErrTruncated},
		"more content than parse":      {records(5, record{run: 4, choice: nothing}), LZMA2, ErrCorrupt},
		"more parse than content":      {records(3, record{run: 4, choice: nothing}), LZMA2, ErrCorrupt},
		"a match beyond the content":   {records(5, record{run: 4, choice: repeat0, length: 200}), LZMA2, ErrCorrupt},
		"a match of no length":         {records(5, record{run: 5, choice: match, length: 0}), LZMA2, ErrCorrupt},
		"a literal after a far match":  {records(9, record{run: 1, choice: match, length: 5, distance: 1000}, record{run: 3, choice: nothing}), LZMA2, ErrCorrupt},
		"an unknown choice":            {records(5, record{run: 5, choice: 9, length: 3}), LZMA2, ErrCorrupt},
		"no content at all":            {records(0), LZMA2, ErrTooLarge},
		"a stored chunk that is large": {stored(maxChunk + 1), LZMA2, ErrTooLarge},
	} {
		out, err := made(c.form, c.kind, 777)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %d bytes, %v, want %v", name, len(out), err, c.want)
		}
	}
}

// FuzzReader: whatever is taken for a stream. What it makes of one can be put together.
func FuzzReader(f *testing.F) {
	for i, flags := range [][]string{{"-6"}, {"--format=lzma"}} {
		stream, kind := xz(f, content(5_000), flags...)
		f.Add(stream, kind == LZMA)
		f.Add(stream[:100*(i+1)], kind == LZMA)
	}
	f.Fuzz(func(t *testing.T, stream []byte, alone bool) {
		kind := LZMA2
		if alone {
			kind = LZMA
		}
		form, _, err := parsed(stream, kind)
		if err != nil {
			return
		}
		if _, err := made(form, kind, 1000); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzWriter: whatever is taken for a parsed form.
func FuzzWriter(f *testing.F) {
	for _, flags := range [][]string{{"-6"}, {"--format=lzma"}} {
		stream, kind := xz(f, content(5_000), flags...)
		form, _, err := parsed(stream, kind)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(form, kind == LZMA)
	}
	f.Fuzz(func(t *testing.T, form []byte, alone bool) {
		kind := LZMA2
		if alone {
			kind = LZMA
		}
		_, _ = made(form, kind, 1000)
	})
}

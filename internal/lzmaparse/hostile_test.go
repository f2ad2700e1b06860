package lzmaparse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

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

// TestARunOfCarriesIsBounded: what a carry may still change is held back, and nobody sees
// that it comes.
func TestARunOfCarriesIsBounded(t *testing.T) {
	for _, format := range [][]string{{"-6"}, {"--format=lzma"}} {
		stream, kind := xz(t, content(20_000), format...)
		form, _, err := parsed(stream, kind)
		if err != nil {
			t.Fatal(err)
		}
		var w Writer
		w.Reset(kind, nil)
		out, err := w.Write(nil, form[:len(form)-1000])
		if err != nil {
			t.Fatal(err)
		}
		w.coder.pending += maxChunk // as many bytes of 0xff as no compressor makes
		if more, err := w.Write(out, form[len(form)-1000:]); !errors.Is(err, ErrTooLarge) || len(more) > len(out)+maxChunk {
			t.Errorf("%v: %d bytes more, %v", format, len(more)-len(out), err)
		}
	}
}

package deflateparse

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

var sentinels = []error{ErrTruncated, ErrCorrupt, ErrTooLarge, ErrTooFar}

// refusal is the sentinel that an error is; nil: none.
func refusal(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s) {
			return s
		}
	}
	return nil
}

// read takes a stream apart that may be hostile.
func read(t testing.TB, r *Reader, stream []byte, effort int) ([]byte, error) {
	t.Helper()
	r.Reset(bytes.NewReader(stream), effort)
	form, err := io.ReadAll(r)
	if err != nil && refusal(err) == nil {
		t.Fatalf("no sentinel: %v", err)
	}
	if _, again := r.Read(make([]byte, 1)); err != nil && again != err || err == nil && again != io.EOF {
		t.Fatalf("after %v: %v", err, again)
	}
	return form, err
}

// checkStream takes apart what may be a stream. If it is one, it comes back.
func checkStream(t testing.TB, r *Reader, w *Writer, stream []byte, effort int) {
	t.Helper()
	form, err := read(t, r, stream, effort)
	if err != nil {
		return
	}
	taken := len(stream) - r.in.src.(*bytes.Reader).Len() - int(r.Ahead())
	got, err := write(w, form, 1<<20)
	if err != nil || !bytes.Equal(got, stream[:taken]) {
		t.Fatalf("%d bytes, of them %d again: %v", taken, len(got), err)
	}
}

// checkForm makes a stream of what may be a form, and returns how that ended: the same for
// all pieces.
func checkForm(t testing.TB, w *Writer, form []byte) error {
	t.Helper()
	one, err := write(w, form, 1<<20)
	two, errTwo := write(w, form, 11)
	if refusal(err) != refusal(errTwo) || !bytes.Equal(one, two) {
		t.Fatalf("%d bytes and %v, in pieces %d and %v", len(one), err, len(two), errTwo)
	}
	if err != nil && refusal(err) == nil {
		t.Fatalf("no sentinel: %v", err)
	}
	return refusal(err)
}

// seeds are small streams of all kinds.
func seeds(t testing.TB) [][]byte {
	all, by := contents(t), compressors()
	var list [][]byte
	for _, compress := range []func([]byte) []byte{by["go 0"], by["go 9"], by["go -2"], by["go 1"], by["go 6, flushed"]} {
		for _, content := range [][]byte{nil, all["three"], all["a program"][:20_000], all["lines"][:60_000], all["long runs"]} {
			list = append(list, compress(content))
		}
	}
	return append(list, gzip(t, all["three"]), gzip(t, all["lines"][:30_000]))
}

func TestTruncatedStreamsAndForms(t *testing.T) {
	var r Reader
	var w Writer
	for i, stream := range seeds(t) {
		form, err := read(t, &r, stream, i%Efforts)
		if err != nil {
			t.Fatal(err)
		}
		step := 1 + len(stream)/100
		for cut := 0; cut < len(stream); cut += step {
			if _, err := read(t, &r, stream[:cut], i%Efforts); !errors.Is(err, ErrTruncated) {
				t.Fatalf("cut at %d of %d: %v", cut, len(stream), err)
			}
		}
		step = 1 + len(form)/100
		for cut := 0; cut < len(form); cut += step {
			if out, err := write(&w, form[:cut], 1000); !errors.Is(err, ErrTruncated) || !bytes.HasPrefix(stream, out) {
				t.Fatalf("cut at %d of %d: %v", cut, len(form), err)
			}
		}
		if out, err := write(&w, append(bytes.Clone(form), 0), 1<<20); !errors.Is(err, ErrCorrupt) || !bytes.Equal(out, stream) {
			t.Fatal("a byte more:", err)
		}
	}
}

// TestDamagedStreamsAndForms are refused, or are other ones.
func TestDamagedStreamsAndForms(t *testing.T) {
	var r Reader
	var w Writer
	rnd := rand.New(rand.NewPCG(1, 2))
	refused := map[error]int{}
	for i, stream := range seeds(t) {
		form, err := read(t, &r, stream, i%Efforts)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			bad := bytes.Clone(stream)
			for range 1 + rnd.IntN(3) {
				bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
			}
			checkStream(t, &r, &w, bad, i%Efforts)
			bad = bytes.Clone(form)
			for range 1 + rnd.IntN(3) {
				bad[rnd.IntN(min(len(bad), 1+rnd.IntN(len(bad))))] = byte(rnd.Uint32())
			}
			refused[checkForm(t, &w, bad)]++
		}
	}
	if refused[ErrCorrupt] < 100 || refused[nil] < 100 {
		t.Error(refused)
	}
}

func TestHostileStreams(t *testing.T) {
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"nothing":                   {nil, ErrTruncated},
		"a reserved kind":           {[]byte{7, 0, 0}, ErrCorrupt},
		"a wrong length":            {[]byte{1, 1, 0, 0xff, 0xff, 0}, ErrCorrupt},
		"more stored than there is": {[]byte{1, 2, 0, 0xfd, 0xff, 0}, ErrTruncated},
		"too many lengths":          {[]byte{0xf5, 0xff, 0xff, 0xff}, ErrCorrupt},
		"too many short codes":      {[]byte{0x05, 0, 0x92, 0x24, 0x49, 0x92, 0x24}, ErrCorrupt},
		// A literal and a match of 3, at the distance 1 and 2.
		"at the begin":     {[]byte{0x4b, 0x04, 0x02, 0}, nil},
		"before the begin": {[]byte{0x4b, 0x04, 0x42, 0}, ErrTooFar},
		"no such length":   {[]byte{0x1b, 0x03, 0, 0, 0}, ErrCorrupt},
		"no such distance": {[]byte{0x4b, 0x04, 0x3e, 0, 0}, ErrCorrupt},
	} {
		_, err := read(t, &Reader{}, c.stream, 1)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if _, err := io.ReadAll(flate.NewReader(bytes.NewReader(c.stream))); (err == nil) != (c.want == nil) {
			t.Errorf("%s: by compress/flate %v", name, err)
		}
	}
}

func TestHostileForms(t *testing.T) {
	group := func(h head, rest ...byte) []byte {
		b := make([]byte, headLength)
		h.put(b)
		return append(b, rest...)
	}
	last := func(h head, rest ...byte) []byte {
		h.final, h.ends = true, true
		return group(h, rest...)
	}
	tree := []byte{0, 0, 14, 0, 0, 1} // HLIT, HDIST, HCLEN, and three lengths of 18
	for name, c := range map[string]struct {
		form []byte
		want error
	}{
		"nothing":                     {nil, ErrTruncated},
		"an empty block":              {last(head{kind: fixed}), nil},
		"content that does not come":  {last(head{kind: fixed, content: 9}, 'a'), ErrTruncated},
		"too much content":            {last(head{kind: fixed, content: maxContent + 1}), ErrCorrupt},
		"too many records":            {last(head{kind: fixed, records: maxRecords + 1}), ErrCorrupt},
		"an unknown effort":           {last(head{kind: fixed, effort: uint8(Efforts)}), ErrCorrupt},
		"foretold by nobody":          {last(head{kind: fixed, foretold: true}), ErrCorrupt},
		"another effort":              {append(group(head{kind: fixed, effort: 1, final: true}), last(head{kind: goesOn, effort: 2})...), ErrCorrupt},
		"no block goes on":            {last(head{kind: goesOn}), ErrCorrupt},
		"a block in a block":          {append(group(head{kind: fixed}), last(head{kind: fixed})...), ErrCorrupt},
		"it was not the last":         {append(group(head{kind: fixed}), last(head{kind: goesOn})...), ErrCorrupt},
		"padding inside":              {group(head{kind: fixed, ends: true, padding: 1}), ErrCorrupt},
		"padding that does not fit":   {last(head{kind: fixed, padding: 64}), ErrCorrupt},
		"a header of what has none":   {last(head{kind: fixed, header: 1}, 0), ErrCorrupt},
		"no header":                   {last(head{kind: dynamic}), ErrCorrupt},
		"too long a header":           {last(head{kind: dynamic, header: maxHeader + 1}), ErrCorrupt},
		"a cut header":                {last(head{kind: dynamic, header: len(tree)}, tree...), ErrCorrupt},
		"too many codes":              {last(head{kind: dynamic, header: 3}, 30, 0, 0), ErrCorrupt},
		"stored, of another length":   {last(head{kind: stored, header: 2, content: 1}, 2, 0, 'a'), ErrCorrupt},
		"stored, longer":              {last(head{kind: stored, header: 2, content: 2}, 1, 0, 'a', 'a'), ErrCorrupt},
		"stored, with records":        {last(head{kind: stored, header: 2, records: 1}, 0, 0, 0, 0, 0, 0), ErrCorrupt},
		"before the begin":            {last(head{kind: fixed, content: 4, records: 1}, 1, 0, 1, 0, 'a', 'a', 'a', 'a'), ErrTooFar},
		"at the begin":                {last(head{kind: fixed, content: 4, records: 1}, 1, 0, 0, 0, 'a', 'a', 'a', 'a'), nil},
		"a match beyond the end":      {last(head{kind: fixed, content: 3, records: 1}, 1, 0, 0, 0, 'a', 'a', 'a'), ErrCorrupt},
		"literals beyond the end":     {last(head{kind: fixed, content: 3, records: 1}, 255, 0, 0, 0x80, 'a', 'a', 'a'), ErrCorrupt},
		"a record of nothing":         {last(head{kind: fixed, content: 3, records: 1}, 1, 0, 0, 0x80, 'a', 'a', 'a'), ErrCorrupt},
		"corrected, before the begin": {last(head{kind: fixed, content: 4, records: 1, effort: 1, foretold: true}, 1, 0, 1, 0, 'a', 'a', 'a', 'a'), ErrTooFar},
		"corrected, beyond the end":   {last(head{kind: fixed, content: 3, records: 1, effort: 1, foretold: true}, 1, 0, 0, 0, 'a', 'a', 'a'), ErrCorrupt},
		"foreseen, beyond the end":    {last(head{kind: fixed, content: 3, records: 1, effort: 1, foretold: true}, 0, 1, skip&0xff, skip>>8, 'a', 'a', 'a'), ErrCorrupt},
		"no such rank":                {last(head{kind: fixed, content: 4, records: 1, effort: 1, foretold: true}, 1, 0, 1, 0x80, 'a', 'a', 'a', 'a'), ErrCorrupt},
		"an unknown correction":       {last(head{kind: fixed, content: 4, records: 1, effort: 1, foretold: true}, 1, 0, 9, 0xc0, 'a', 'a', 'a', 'a'), ErrCorrupt},
		"a literal at the end":        {last(head{kind: fixed, content: 1, records: 1, effort: 1, foretold: true}, 1, 0, literal&0xff, literal>>8, 'a'), ErrCorrupt},
	} {
		if err := checkForm(t, &Writer{}, c.form); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestALetterWithoutACode: a block's code need not have all of them.
func TestALetterWithoutACode(t *testing.T) {
	form := formOf(t, gzip(t, contents(t)["lines"][:3000]), 0)
	form[len(form)-1] = 'Z'
	var h head
	if !h.parse(form) || h.kind != dynamic {
		t.Fatal("gzip made another kind of block")
	}
	form = append(form[:headLength+h.header], form[headLength+h.header+recordLength*h.records:]...)
	h.records = 0
	h.put(form)
	if err := checkForm(t, &Writer{}, form); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// TestWhatIsKeptIsBounded: a stream of matches alone has the longest parse.
func TestWhatIsKeptIsBounded(t *testing.T) {
	var r Reader
	var w Writer
	for name, content := range contents(t) {
		form, err := read(t, &r, compressors()["go 1"](content), 1)
		if err == nil {
			_, err = write(&w, form, 5000)
		}
		if err != nil {
			t.Fatal(name, err)
		}
	}
	if n := cap(r.records) + cap(r.corrections) + len(r.predictor.room) + 2*len(r.predictor.last) + 2*len(r.predictor.before) + cap(r.header.form); n > 290_000 {
		t.Errorf("a Reader keeps %d bytes", n)
	}
	if n := cap(w.buf) + len(w.predictor.room) + 2*len(w.predictor.last) + 2*len(w.predictor.before); n > 280_000 {
		t.Errorf("a Writer keeps %d bytes", n)
	}
}

func FuzzReader(f *testing.F) {
	for i, stream := range seeds(f) {
		f.Add(stream, uint8(i))
	}
	f.Fuzz(func(t *testing.T, stream []byte, effort uint8) {
		checkStream(t, &Reader{}, &Writer{}, stream, int(effort)%Efforts)
	})
}

func FuzzWriter(f *testing.F) {
	for i, stream := range seeds(f) {
		f.Add(formOf(f, stream, i%Efforts))
	}
	f.Fuzz(func(t *testing.T, form []byte) {
		_ = checkForm(t, &Writer{}, form)
	})
}

// TestNothingIsAllocatedForTheNextStream: an image has thousands of them.
func TestNothingIsAllocatedForTheNextStream(t *testing.T) {
	stream := compressors()["go 9"](contents(t)["lines"])
	form := formOf(t, stream, 1)
	var r Reader
	var w Writer
	src := bytes.NewReader(nil)
	buf, out := make([]byte, 10_000), make([]byte, 0, 1<<20)
	if n := testing.AllocsPerRun(5, func() {
		src.Reset(stream)
		r.Reset(src, 1)
		for err := error(nil); err == nil; {
			_, err = r.Read(buf)
		}
		w.Reset()
		out, _ = w.Write(out[:0], form) // compared below
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !bytes.Equal(out, stream) {
		t.Error("another stream")
	}
}

package deflateparse

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	kflate "github.com/klauspost/compress/flate"
)

// formOf takes a stream apart, of which all bytes are read.
func formOf(t testing.TB, stream []byte, effort int) []byte {
	t.Helper()
	var r Reader
	src := bytes.NewReader(append(bytes.Clone(stream), "behind"...))
	r.Reset(src, effort)
	form, err := io.ReadAll(&r)
	if err != nil {
		t.Fatalf("after %d bytes of form: %v", len(form), err)
	}
	if n := int64(src.Len()) + r.Ahead(); n != int64(len("behind")) {
		t.Fatalf("%d bytes are left behind the stream", n)
	}
	return form
}

// made is the stream of a form, in pieces of some length.
func made(t testing.TB, form []byte, piece int) []byte {
	t.Helper()
	var w Writer
	out, err := write(&w, form, piece)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(w *Writer, form []byte, piece int) (out []byte, err error) {
	w.Reset()
	for len(form) > 0 && err == nil {
		n := min(piece, len(form))
		out, err = w.Write(out, form[:n])
		form = form[n:]
	}
	out, last := w.Finish(out)
	return out, errors.Join(err, last)
}

// contentOf is what the groups of a form hold.
func contentOf(t testing.TB, form []byte) []byte {
	t.Helper()
	var content []byte
	for len(form) > 0 {
		var h head
		if !h.parse(form) {
			t.Fatal("no head of a group")
		}
		form = form[headLength+h.header+h.records*recordLength:]
		content = append(content, form[:h.content]...)
		form = form[h.content:]
	}
	return content
}

// roundTrip takes a stream apart, compares its content and makes it again.
func roundTrip(t testing.TB, name string, stream, content []byte) {
	t.Helper()
	for effort := range Efforts {
		form := formOf(t, stream, effort)
		if held := contentOf(t, form); !bytes.Equal(held, content) {
			t.Errorf("%s: content: %d bytes of %d, or others", name, len(held), len(content))
		}
		if got := made(t, form, 70_000); !bytes.Equal(got, stream) {
			i := 0
			for i < min(len(got), len(stream)) && got[i] == stream[i] {
				i++
			}
			t.Errorf("%s: other bytes from %d of %d on (got %d)", name, i, len(stream), len(got))
		}
	}
}

// contents are of many kinds, and of lengths around those at which groups end.
func contents(t testing.TB) map[string][]byte {
	t.Helper()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 150_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var lines []byte
	for len(lines) < 1<<18 {
		lines = fmt.Appendf(lines, "%d: the %dth line of %d\n", rnd.IntN(90), rnd.IntN(2000), rnd.IntN(7))
	}
	all := map[string][]byte{
		"nothing": nil, "a byte": {7}, "two bytes": {7, 7}, "three": {7, 7, 7}, "zeros": make([]byte, 700_000),
		"a program": self[1<<20:][:900_000], "noise": noise, "lines": lines,
		"noise, then zeros": append(bytes.Clone(noise[:70_000]), make([]byte, 100_000)...),
		"far matches":       bytes.Repeat(noise[:32_768], 5),
		"long runs":         append(bytes.Repeat(noise[:600], 2), noise[:900]...),
	}
	for _, n := range []int{65_276, 65_277, 65_278, 65_534, 65_535, 65_536, 130_000} {
		all[fmt.Sprint("lines of ", n)] = lines[:n]
		all[fmt.Sprint("program of ", n)] = self[1<<20:][:n]
	}
	return all
}

// compressors are those that Go programs have, at their levels, with and without flushes.
func compressors() map[string]func(content []byte) []byte {
	type writer interface {
		io.WriteCloser
		Flush() error
	}
	of := func(open func(w io.Writer) (writer, error), flush int) func([]byte) []byte {
		return func(content []byte) []byte {
			var out bytes.Buffer
			w, err := open(&out)
			for flush > 0 && len(content) > flush && err == nil {
				_, err = w.Write(content[:flush])
				content = content[flush:]
				err = errors.Join(err, w.Flush())
			}
			if err == nil {
				_, err = w.Write(content)
			}
			if err = errors.Join(err, w.Close()); err != nil {
				panic(err)
			}
			return out.Bytes()
		}
	}
	all := map[string]func([]byte) []byte{}
	for level := -2; level <= 9; level++ {
		ours := func(w io.Writer) (writer, error) { return flate.NewWriter(w, level) }
		theirs := func(w io.Writer) (writer, error) { return kflate.NewWriter(w, level) }
		all[fmt.Sprint("go ", level)] = of(ours, 0)
		all[fmt.Sprint("klauspost ", level)] = of(theirs, 0)
		if level%3 == 0 {
			all[fmt.Sprint("go ", level, ", flushed")] = of(ours, 9_999)
		}
	}
	return all
}

func TestStreamsOfGoComeBack(t *testing.T) {
	contents := contents(t)
	for name, compress := range compressors() {
		for what, content := range contents {
			roundTrip(t, what+" by "+name, compress(content), content)
		}
	}
}

// TestStreamsOfGzipComeBack: zlib's and its own choices are the same for this package.
func TestStreamsOfGzipComeBack(t *testing.T) {
	for name, content := range contents(t) {
		for _, level := range []string{"-1", "-6", "-9"} {
			cmd := exec.Command("gzip", "-nc", level)
			cmd.Stdin = bytes.NewReader(content)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, name, out[10:len(out)-8], content)
		}
	}
}

package deflateparse

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"groundswell/internal/deflate/deflatetest"
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

// roundTrip takes a stream apart by one of the efforts, compares its content and makes it
// again.
func roundTrip(t testing.TB, name string, stream, content []byte) {
	t.Helper()
	roundTripBy(t, name, stream, content, len(stream)%Efforts)
}

func roundTripBy(t testing.TB, name string, stream, content []byte, effort int) {
	t.Helper()
	form := formOf(t, stream, effort)
	if held := contentOf(t, form); !bytes.Equal(held, content) {
		t.Errorf("%s: content: %d bytes of %d, or others", name, len(held), len(content))
	}
	if got := made(t, form, 70_000); !bytes.Equal(got, stream) {
		i := 0
		for i < min(len(got), len(stream)) && got[i] == stream[i] {
			i++
		}
		t.Errorf("%s, effort %d: other bytes from %d of %d on (got %d)", name, effort, i, len(stream), len(got))
	}
}

// contents are of many kinds, and of lengths around those at which groups end.
func contents(t testing.TB) map[string][]byte {
	t.Helper()
	all := deflatetest.Contents(t, 32_510, 32_511, 32_512, 32_767, 32_768, 32_769, 65_535, 65_536, 130_000)
	noise := all["noise"]
	all["far matches"] = bytes.Repeat(noise[:32_768], 5)
	all["long runs"] = append(bytes.Repeat(noise[:600], 2), noise[:900]...)
	return all
}

// compressors are Go's, at its levels, with and without flushes.
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
		open := func(w io.Writer) (writer, error) { return flate.NewWriter(w, level) }
		all[fmt.Sprint("go ", level)] = of(open, 0)
		if level%3 == 0 {
			all[fmt.Sprint("go ", level, ", flushed")] = of(open, 9_999)
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

// gzip compresses by the program, and leaves out the head and what is behind the stream.
func gzip(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("gzip", append([]string{"-nc"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out[10 : len(out)-8]
}

func TestStreamsOfGzipComeBack(t *testing.T) {
	for name, content := range contents(t) {
		for _, args := range [][]string{{"-1"}, {"-6"}, {"-9"}, {"--rsyncable"}} {
			roundTrip(t, fmt.Sprint(name, args), gzip(t, content, args...), content)
		}
	}
}

// TestStreamsOfOthersComeBack: recorded ones, each by the program that gives it its name.
func TestStreamsOfOthersComeBack(t *testing.T) {
	names, streams := recordedStreams(t)
	for i, stream := range streams {
		content, err := io.ReadAll(flate.NewReader(bytes.NewReader(stream)))
		if err != nil {
			t.Fatal(names[i], err)
		}
		for effort := range Efforts {
			roundTripBy(t, names[i], stream, content, effort)
		}
	}
}

// recordedStreams are those of gzip files.
func recordedStreams(t testing.TB) (names []string, streams [][]byte) {
	t.Helper()
	names, err := filepath.Glob("testdata/streams/*")
	if err != nil || len(names) < 10 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		stream := file[10 : len(file)-8]
		if named := file[3]&8 != 0; named {
			stream = stream[bytes.IndexByte(stream, 0)+1:]
		}
		streams = append(streams, stream)
	}
	return names, streams
}

// TestWhatIsForetoldTakesNoRoom: of the usual compressors nearly all is foreseen by the effort that is theirs.
func TestWhatIsForetoldTakesNoRoom(t *testing.T) {
	all, by := contents(t), compressors()
	for effort, compress := range map[int]func([]byte) []byte{
		1: func(content []byte) []byte { return gzip(t, content, "-9") },
		2: func(content []byte) []byte { return gzip(t, content, "-6", "--rsyncable") },
		3: by["go 9"], 4: by["go 6"],
	} {
		for _, what := range []string{"a program", "lines"} {
			stream := compress(all[what])
			foreseen, all := len(formOf(t, stream, effort)), len(formOf(t, stream, 0))
			if parse := all - len(contentOf(t, formOf(t, stream, 0))); foreseen > all-parse*85/100 {
				t.Errorf("%s, effort %d: %d bytes, without it %d, of these %d of the parse", what, effort, foreseen, all, parse)
			}
		}
	}
}

// TestNothingOfAStreamIsLost: what no decoder looks at is there again.
func TestNothingOfAStreamIsLost(t *testing.T) {
	content := bytes.Repeat([]byte("a"), 600)
	padded := gzip(t, content)
	padded[len(padded)-1] |= 0x80
	stored := compressors()["go 0"](content)
	stored[0] |= 0xf8
	head := head{kind: fixed, final: true, ends: true, content: len(content), records: 2}
	form := make([]byte, headLength, 1000)
	head.put(form)
	for _, r := range []record{{1, maxMatch, 1, true}, {0, maxMatch, 1, false}} {
		form = append(form, make([]byte, recordLength)...)
		r.put(form[len(form)-recordLength:])
	}
	long := made(t, append(form, content...), 10)
	for name, stream := range map[string][]byte{"the last bits": padded, "bits before what is stored": stored, "a long length by its shorter code": long} {
		if got, err := io.ReadAll(flate.NewReader(bytes.NewReader(stream))); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		for effort := range Efforts {
			if got := made(t, formOf(t, stream, effort), 7); !bytes.Equal(got, stream) {
				t.Errorf("%s, effort %d: %x, want %x", name, effort, got, stream)
			}
		}
	}
}

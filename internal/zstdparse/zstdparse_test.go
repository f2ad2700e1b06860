package zstdparse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// zstd compresses by Debian's program. size says whether it knows how much there is.
func zstd(t testing.TB, content []byte, size bool, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("zstd", append([]string{"-q", "-c"}, args...)...)
	if size {
		cmd.Args = append(cmd.Args, path)
	} else {
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd.Stdin = in
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &said)
	}
	return out
}

// backed reads a whole form, which the Reader may look back into.
type backed struct{ form []byte }

func (b *backed) ReadAt(p []byte, at int64) (int, error) {
	if at > int64(len(b.form)) {
		return 0, io.EOF
	}
	n := copy(p, b.form[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b *backed) all(r *Reader, src io.Reader) error {
	r.Reset(src, b)
	buf := make([]byte, 50_000)
	for {
		n, err := r.Read(buf)
		b.form = append(b.form, buf[:n]...)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// forms are the parsed forms of all frames of a file.
func forms(t testing.TB, frames []byte) [][]byte {
	t.Helper()
	var r Reader
	var list [][]byte
	for src := bytes.NewReader(frames); src.Len() > 0; {
		var b backed
		if err := b.all(&r, src); err != nil {
			t.Fatalf("frame %d of %d bytes: %v", len(list), len(frames), err)
		}
		list = append(list, b.form)
	}
	return list
}

// made is the frame of a form, in pieces of some length.
func made(t testing.TB, w *Writer, form []byte, piece int) []byte {
	t.Helper()
	w.Reset()
	var out []byte
	var err error
	for len(form) > 0 {
		n := min(piece, len(form))
		if out, err = w.Write(out, form[:n]); err != nil {
			t.Fatal(err)
		}
		form = form[n:]
	}
	if out, err = w.Finish(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// contentOf is what the blocks of a form hold.
func contentOf(t testing.TB, form []byte) []byte {
	t.Helper()
	n, sum := frameHeader(form[4])
	form = form[n:]
	var content []byte
	for {
		var h head
		if !h.parse(form[:headLength]) {
			t.Fatal("no head of a block")
		}
		form = form[headLength+h.parseLength:]
		content = append(content, form[:h.content]...)
		form = form[h.content:]
		if h.last {
			break
		}
	}
	if want := map[bool]int{true: 4}[sum]; len(form) != want {
		t.Fatalf("%d bytes behind the last block, not %d", len(form), want)
	}
	return content
}

// roundTrip takes frames apart, compares their content and makes them again.
func roundTrip(t testing.TB, frames, content []byte) {
	t.Helper()
	var w Writer
	var got, held []byte
	for _, form := range forms(t, frames) {
		got = append(got, made(t, &w, form, 70_000)...)
		held = append(held, contentOf(t, form)...)
	}
	if !bytes.Equal(held, content) {
		t.Errorf("content: %d bytes, want %d, or others", len(held), len(content))
	}
	if !bytes.Equal(got, frames) {
		i := 0
		for i < min(len(got), len(frames)) && got[i] == frames[i] {
			i++
		}
		t.Errorf("frames differ from byte %d of %d (got %d)", i, len(frames), len(got))
	}
}

// prose is words of a vocabulary with few numbers in between, the same for a seed.
func prose(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 3000)
	for i := range words {
		words[i] = make([]byte, 2+rnd.IntN(9))
		for j := range words[i] {
			words[i][j] = byte('a' + rnd.IntN(26)*rnd.IntN(26)/26)
		}
	}
	var out []byte
	for len(out) < n {
		out = append(out, words[rnd.IntN(len(words))*rnd.IntN(len(words))/len(words)]...)
		switch rnd.IntN(20) {
		case 0:
			out = fmt.Appendf(out, " %d, ", rnd.IntN(10_000))
		case 1:
			if len(out) > 5000 { // something of before
				at := rnd.IntN(len(out) - 1000)
				out = append(out, out[at:at+rnd.IntN(600)]...)
			}
		default:
			out = append(out, ' ')
		}
	}
	return out[:n]
}

func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = rnd.Read(out) // never fails
	return out
}

// program is the bytes of a program that every machine with these tests has: this one.
func program(t testing.TB, n int) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data[:min(n, len(data))]
}

func TestFramesOfEachLevelComeBack(t *testing.T) {
	content := append(append(append(prose(1, 400_000), program(t, 1_500_000)...), make([]byte, 200_000)...), noise(2, 150_000)...)
	content = append(content, prose(1, 300_000)...) // far back
	for level := 1; level <= 22; level++ {
		roundTrip(t, zstd(t, content, true, "--ultra", fmt.Sprint("-", level)), content)
	}
	for _, args := range [][]string{{"--fast=1"}, {"--fast=30"}, {"--no-check"}, {"--check"}, {"--long=27", "-3"}, {"-T0", "-3", "-B600000"}, {"-T0", "-19", "--long=24"}, {"--no-compress-literals"}, {"-5", "--target-compressed-block-size=4000"}, {"--single-thread", "-4"}} {
		roundTrip(t, zstd(t, content, true, args...), content)
		roundTrip(t, zstd(t, content, false, args...), content)
	}
}

func TestFramesOfAllContentsComeBack(t *testing.T) {
	text := prose(3, 300_000)
	contents := [][]byte{nil, {0}, []byte("abc"), make([]byte, 1000), make([]byte, 1_000_000), noise(1, 10), noise(1, 200_000), bytes.Repeat([]byte("ab"), 100_000)}
	for n := 1; n < 200_000; n += n/3 + 1 {
		contents = append(contents, text[:n])
	}
	var words []byte // few symbols
	for _, b := range noise(9, 100_000) {
		words = append(words, "aaaabc\n\n"[b&7])
	}
	contents = append(contents, words, words[:100], words[:1000])
	for _, content := range contents {
		for _, args := range [][]string{{"-1"}, {"-3", "--no-check"}, {"-19"}, {"--ultra", "-22"}} {
			roundTrip(t, zstd(t, content, true, args...), content)
			roundTrip(t, zstd(t, content, false, args...), content)
		}
	}
}

func TestManyFrames(t *testing.T) {
	text := prose(4, 50_000)
	frames := append(zstd(t, text, true), zstd(t, text[:777], false, "-19")...)
	roundTrip(t, append(frames, frames...), bytes.Repeat(append(bytes.Clone(text), text[:777]...), 2))
}

// TestMatchesBeyondTheWindow are made of the form that was given before.
func TestMatchesBeyondTheWindow(t *testing.T) {
	content := append(append(prose(5, 300_000), noise(3, 3_000_000)...), prose(5, 300_000)...)
	frame := zstd(t, content, true, "--long=27", "-9")
	roundTrip(t, frame, content)
	var r Reader
	r.Reset(bytes.NewReader(frame), nil)
	if _, err := io.Copy(io.Discard, onlyReader{&r}); !errors.Is(err, ErrTooFar) {
		t.Error(err)
	}
}

type onlyReader struct{ io.Reader }

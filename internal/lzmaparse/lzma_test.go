package lzmaparse

import (
	"bytes"
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

// TestTheNextStreamHasNothingOfTheLastOne: what was read back of that is at the same place.
func TestTheNextStreamHasNothingOfTheLastOne(t *testing.T) {
	var r Reader
	var w Writer
	for _, mask := range []byte{0, 0xff} {
		data := noise(2 * Window)
		for i := range data {
			data[i] ^= mask
		}
		data = append(append(data, data[:200]...), make([]byte, 60_000)...) // zeros, so that it is no stored chunk
		stream, kind := xz(t, data, "-6")
		back, form, buffer := &memory{}, []byte(nil), make([]byte, 1000)
		for r.Reset(bytes.NewReader(stream), kind, back); ; {
			n, err := r.Read(buffer)
			_, _ = back.WriteAt(buffer[:n], int64(len(form))) // never fails
			if form = append(form, buffer[:n]...); err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if bytes.Count(form, data[20:180]) != 2 {
			t.Errorf("mask %#x: the form has other content", mask)
		}
		w.Reset(kind, &memory{})
		out, err := w.Write(nil, form)
		if err == nil {
			out, err = w.Finish(out)
		}
		if err != nil || !bytes.HasPrefix(stream, out) {
			t.Errorf("mask %#x: %d bytes of %d, or others: %v", mask, len(out), len(stream), err)
		}
	}
}

// TestTheNextStreamAllocatesNothing: a file system has thousands of them.
func TestTheNextStreamAllocatesNothing(t *testing.T) {
	stream, kind := xz(t, content(500_000), "-6")
	form, _, err := parsed(stream, kind)
	if err != nil {
		t.Fatal(err)
	}
	var r Reader
	var w Writer
	src, buffer, out := bytes.NewReader(nil), make([]byte, 50_000), make([]byte, 0, 2*len(stream))
	back, scratch := bytes.NewReader(form), &memory{make([]byte, 500_000)}
	if n := testing.AllocsPerRun(3, func() {
		src.Reset(stream)
		r.Reset(src, kind, back)
		for err = nil; err == nil; {
			_, err = r.Read(buffer)
		}
	}); n > 0 || err != io.EOF {
		t.Errorf("a reader: %v times, %v", n, err)
	}
	if n := testing.AllocsPerRun(3, func() {
		w.Reset(kind, scratch)
		_, err = w.Write(out, form)
	}); n > 0 || err != nil {
		t.Errorf("a writer: %v times, %v", n, err)
	}
}

package zstdparse

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func TestTruncatedFramesAndForms(t *testing.T) {
	var r Reader
	var w Writer
	for _, frame := range seeds(t) {
		form, n, err := read(t, &r, append(bytes.Clone(frame), "behind"...))
		if err != nil || n != len(frame) {
			t.Fatalf("%d bytes of %d: %v", n, len(frame), err)
		}
		step := 1 + len(frame)/300
		for cut := 0; cut < len(frame); cut += step {
			if _, _, err := read(t, &r, frame[:cut]); !errors.Is(err, ErrTruncated) {
				t.Fatalf("cut at %d of %d: %v", cut, len(frame), err)
			}
		}
		step = 1 + len(form)/300
		for cut := 0; cut < len(form); cut += step {
			if out, err := write(t, &w, form[:cut], 1000); !errors.Is(err, ErrTruncated) || !bytes.HasPrefix(frame, out) {
				t.Fatalf("cut at %d of %d: %v", cut, len(form), err)
			}
		}
		if out, err := write(t, &w, append(bytes.Clone(form), 0), 1<<20); !errors.Is(err, ErrCorrupt) || !bytes.Equal(out, frame) {
			t.Fatal("a byte more:", err)
		}
	}
}

// TestFormsInAnyPieces make the same.
func TestFormsInAnyPieces(t *testing.T) {
	var r Reader
	var w Writer
	for _, frame := range seeds(t) {
		form, _, err := read(t, &r, frame)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 2, 13, 1000, 1 << 20} {
			if got := made(t, &w, form, piece); !bytes.Equal(got, frame) {
				t.Fatalf("%d bytes at a time: %d of %d bytes, or others", piece, len(got), len(frame))
			}
		}
		for _, piece := range []int{1, 17, 1 << 20} {
			r.Reset(bytes.NewReader(frame), nil)
			var got []byte
			buf := make([]byte, piece)
			for err = nil; err == nil; {
				var n int
				n, err = r.Read(buf)
				got = append(got, buf[:n]...)
			}
			if err != io.EOF || !bytes.Equal(got, form) {
				t.Fatalf("read by %d: %d of %d bytes, or others: %v", piece, len(got), len(form), err)
			}
		}
	}
}

// TestDamagedFramesAndForms are refused, or are other frames and other forms.
func TestDamagedFramesAndForms(t *testing.T) {
	var r Reader
	var w Writer
	rnd := rand.New(rand.NewPCG(1, 2))
	refused := map[error]int{}
	for _, frame := range seeds(t) {
		form, _, err := read(t, &r, frame)
		if err != nil {
			t.Fatal(err)
		}
		for range 300 {
			bad := bytes.Clone(frame)
			for range 1 + rnd.IntN(3) {
				bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
			}
			checkFrame(t, &r, &w, bad)
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

package zstdparse

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// readerBounds are what a Reader may keep, whatever it was given.
func readerBounds(t testing.TB, r *Reader) {
	t.Helper()
	if n := cap(r.window) + cap(r.block) + cap(r.parse) + cap(r.longs) + cap(r.literal) + 8*cap(r.blocks.list); n > 2<<20+800<<10 {
		t.Fatalf("%d bytes kept", n)
	}
}

// endless is a frame of blocks that never end: runs of zeros, 32,000 times as long as they
// are in the frame.
type endless struct{ at int }

func (e *endless) ReadByte() (byte, error) {
	b := [4]byte{}
	copy(b[:], block(false, blockRLE, maxBlock))
	if e.at++; e.at <= 6 {
		return frameOf()[e.at-1], nil
	}
	return b[(e.at-7)%4], nil
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i], _ = e.ReadByte() // never fails
	}
	return len(p), nil
}

func TestEndlessFrame(t *testing.T) {
	var r Reader
	r.Reset(&endless{}, nil)
	n, err := io.Copy(io.Discard, onlyReader{&r})
	if !errors.Is(err, ErrTooLarge) || n > MaxForm || n < MaxForm-2*maxBlock {
		t.Errorf("%d bytes, %v", n, err)
	}
	readerBounds(t, &r)
}

// TestTooManyBlocks: of very many small ones only the last are remembered.
func TestTooManyBlocks(t *testing.T) {
	var blocks [][]byte
	for range 3 * maxBlocks {
		blocks = append(blocks, block(false, blockRaw, 20, make([]byte, 20)...))
	}
	// A match of 3 at the distance that the code of an offset and its bits say.
	match := func(code byte, extra uint32) []byte {
		body := []byte{0, 1, 0x54, 0, code, 0}
		v := extra | 1<<code
		for ; v > 0; v >>= 8 {
			body = append(body, byte(v))
		}
		return block(true, blockCompressed, len(body), body...)
	}
	var r Reader
	near := frameOf(append(blocks, match(20, 5000))...)
	form, _, err := read(t, &r, near)
	if err != nil {
		t.Error(err)
	}
	var w Writer
	if got := made(t, &w, form, 1<<20); !bytes.Equal(got, near) {
		t.Error("another frame")
	}
	if _, _, err := read(t, &r, frameOf(append(blocks, match(21, 1_500_000))...)); !errors.Is(err, ErrTooFar) {
		t.Error(err)
	}
	if _, _, err := read(t, &r, frameOf(append(blocks, match(22, 100_000))...)); !errors.Is(err, ErrCorrupt) { // there is less
		t.Error(err)
	}
}

// TestNothingIsAllocatedForTheNextFrame: an image has thousands of them.
func TestNothingIsAllocatedForTheNextFrame(t *testing.T) {
	frame := zstd(t, prose(7, 128<<10), true, "-15")
	form := forms(t, frame)[0]
	var r Reader
	var w Writer
	src := bytes.NewReader(nil)
	buf, out := make([]byte, 10_000), make([]byte, 0, 1<<20)
	if n := testing.AllocsPerRun(5, func() {
		src.Reset(frame)
		r.Reset(src, nil)
		for err := error(nil); err == nil; {
			_, err = r.Read(buf)
		}
		w.Reset()
		out, _ = w.Write(out[:0], form) // compared below
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !bytes.Equal(out, frame) {
		t.Error("another frame")
	}
}

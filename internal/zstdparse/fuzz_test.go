package zstdparse

import (
	"bytes"
	"testing"
)

// checkFrame takes apart what may be a frame. If there is a form, and a frame of it, then
// that frame's form is the same one.
func checkFrame(t testing.TB, r *Reader, w *Writer, frame []byte) {
	t.Helper()
	form, _, err := read(t, r, frame)
	if err != nil {
		return
	}
	made, err := write(t, w, form, 1<<20)
	if err != nil {
		return
	}
	if again, n, err := read(t, r, made); err != nil || n != len(made) || !bytes.Equal(again, form) {
		t.Fatalf("%d bytes of form, again %d: %v", len(form), len(again), err)
	}
}

// checkForm makes a frame of what may be a form, and returns how that ended: the same for
// all pieces.
func checkForm(t testing.TB, w *Writer, form []byte) error {
	t.Helper()
	one, err := write(t, w, form, 1<<20)
	two, errTwo := write(t, w, form, 11)
	if err != errTwo || !bytes.Equal(one, two) {
		t.Fatalf("%d bytes and %v, in pieces %d and %v", len(one), err, len(two), errTwo)
	}
	return err
}

func FuzzReader(f *testing.F) {
	for _, frame := range seeds(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		checkFrame(t, &Reader{}, &Writer{}, frame)
	})
}

func FuzzWriter(f *testing.F) {
	for _, frame := range seeds(f) {
		f.Add(forms(f, frame)[0])
	}
	f.Fuzz(func(t *testing.T, form []byte) {
		_ = checkForm(t, &Writer{}, form)
	})
}

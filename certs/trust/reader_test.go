package trust_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"groundswell/certs/trust"
)

func TestReaderEndsOnlyWithTheRightBytes(t *testing.T) {
	good := bytes.Repeat([]byte("firmware"), 1000)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	broken := errors.New("connection reset")
	for _, test := range []struct {
		name   string
		source io.Reader
		want   error
	}{
		{"whole", bytes.NewReader(good), nil},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(good)), nil},
		{"data with the end", iotest.DataErrReader(bytes.NewReader(good)), nil},
		{"one bit flipped", bytes.NewReader(flipped), trust.ErrDigest},
		{"one byte short", bytes.NewReader(good[:len(good)-1]), trust.ErrLength},
		{"nothing", bytes.NewReader(nil), trust.ErrLength},
		{"one byte more", io.MultiReader(bytes.NewReader(good), bytes.NewReader([]byte("x"))), trust.ErrLength},
		{"endless", io.MultiReader(bytes.NewReader(good), zeros{}), trust.ErrLength},
		{"broken off", io.MultiReader(bytes.NewReader(good[:100]), iotest.ErrReader(broken)), broken},
		{"broken at the end", io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken)), broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := io.ReadAll(trust.NewReader(test.source, int64(len(good)), digest(good)))
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if len(got) > len(good) {
				t.Errorf("passed on %d bytes of %d", len(got), len(good))
			}
			if test.want == nil && !bytes.Equal(got, good) {
				t.Error("the bytes changed on the way")
			}
		})
	}
}

func TestReaderRefusalLasts(t *testing.T) {
	r := trust.NewReader(bytes.NewReader([]byte("abc")), 3, digest([]byte("abd")))
	_, first := io.ReadAll(r)
	_, again := r.Read(make([]byte, 1))
	if !errors.Is(first, trust.ErrDigest) || !errors.Is(again, trust.ErrDigest) {
		t.Errorf("got %v, then %v", first, again)
	}
}

func TestReaderGoesOnAfterWhatIsOnDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		good := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "good")
		cut := rapid.IntRange(0, len(good)).Draw(t, "cut")
		have := bytes.Clone(good[:cut])
		damaged := cut > 0 && rapid.Bool().Draw(t, "damaged")
		if damaged {
			have[rapid.IntRange(0, cut-1).Draw(t, "at")] ^= 0x40
		}
		r := trust.NewReader(bytes.NewReader(good[cut:]), int64(len(good)), digest(good))
		if n, err := r.Prefix(bytes.NewReader(have)); err != nil || n != int64(cut) {
			t.Fatalf("prefix: %d, %v", n, err)
		}
		_, err := io.ReadAll(r)
		if damaged != errors.Is(err, trust.ErrDigest) || !damaged && err != nil {
			t.Fatalf("damaged %v: got %v", damaged, err)
		}
	})
	r := trust.NewReader(bytes.NewReader(nil), 3, digest([]byte("abc")))
	if _, err := r.Prefix(bytes.NewReader([]byte("abcd"))); !errors.Is(err, trust.ErrLength) {
		t.Errorf("more on disk than there should be: got %v, want %v", err, trust.ErrLength)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

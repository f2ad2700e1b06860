package expand

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// steps takes what a unit makes, and fails instead of taking more than it may.
type steps struct {
	bytes.Buffer
	most, longest int
}

func (s *steps) Write(p []byte) (int, error) {
	if s.longest = max(s.longest, len(p)); s.Len()+len(p) > s.most {
		return 0, errFull
	}
	return s.Buffer.Write(p)
}

// TestAUnitComesByAndBy: it is not all kept until it is there.
func TestAUnitComesByAndBy(t *testing.T) {
	p := pairOf(t, 1_500_000)
	raw := bytes.NewReader(p.bytes(t))
	_, d := p.decoder(t)
	u := p.head.Units[0]
	w := &steps{most: len(p.new)}
	if err := d.Unit(0, raw, w); err != nil {
		t.Fatal(err)
	}
	if w.longest > 2*step || u.Size < 3*step {
		t.Errorf("%d bytes of %d came at once", w.longest, u.Size)
	}
	// What is behind it was made already, and is there.
	if ahead := len(d.maker.out); ahead == 0 {
		t.Error("unit 0 makes nothing more")
	}
	if err := d.Unit(1, raw, w); err != nil || !bytes.Equal(w.Bytes(), p.new) {
		t.Errorf("%d bytes of %d, or others: %v", w.Len(), len(p.new), err)
	}
}

// TestWhoTakesAUnitMayFail: then nothing follows, and it can be made again.
func TestWhoTakesAUnitMayFail(t *testing.T) {
	p := pairOf(t, 1_000_000)
	raw := bytes.NewReader(p.bytes(t))
	_, d := p.decoder(t)
	for n, u := range p.head.Units {
		if err := d.Unit(n, raw, &steps{most: int(u.Size) - 1}); !errors.Is(err, errFull) {
			t.Errorf("unit %d: %v", n, err)
		}
		for k := range p.head.Units {
			if d.Follows(k) {
				t.Errorf("unit %d follows unit %d, which failed", k, n)
			}
		}
		var out bytes.Buffer
		if err := d.Unit(n, raw, &out); err != nil || !bytes.Equal(out.Bytes(), p.new[u.Start:u.Start+u.Size]) {
			t.Errorf("unit %d: %d bytes of %d, or others: %v", n, out.Len(), u.Size, err)
		}
		if next := n + 1; next < len(p.head.Units) && !d.Follows(next) {
			t.Errorf("unit %d does not follow", next)
		}
	}
}

// TestAUnitIsCheckedBeforeItIsUsed: nothing is given of wrong bytes, nor of too few.
func TestAUnitIsCheckedBeforeItIsUsed(t *testing.T) {
	p := newPair(t)
	raw := p.bytes(t)
	h, d := p.decoder(t)
	u := h.Units[0]
	wrong := bytes.Clone(raw)
	wrong[u.Offset+u.Length-1] ^= 1
	for _, test := range []struct {
		delta io.ReaderAt
		want  error
	}{
		{bytes.NewReader(wrong), ErrSum},
		{bytes.NewReader(raw[:u.Offset+u.Length-1]), ErrTruncated},
		{failing{}, errFull},
	} {
		w := &steps{}
		if err := d.Unit(0, test.delta, w); !errors.Is(err, test.want) || w.longest > 0 {
			t.Errorf("%v with %d bytes, want %v", err, w.longest, test.want)
		}
	}
}

// failing cannot be read.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errFull }

// decoder is one of the pair's delta.
func (p *pair) decoder(t testing.TB) (*Head, *Decoder) {
	t.Helper()
	h, err := ReadHead(p.bytes(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(h, bytes.NewReader(p.old), &Memory{})
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

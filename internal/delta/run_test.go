package delta

import (
	"bytes"
	"testing"
)

// TestALongRunIsNotMadeOfCopies of a shorter one in the old image: erased flash and holes of
// file systems grow.
func TestALongRunIsNotMadeOfCopies(t *testing.T) {
	noise := noises(11)
	head, tail := noise(20_000), noise(20_000)
	for name, b := range map[string]byte{"zeros": 0, "erased flash": 0xff} {
		run := bytes.Repeat([]byte{b}, 8<<20)
		old := bytes.Join([][]byte{head, run[:10_000], tail}, nil)
		new := bytes.Join([][]byte{head, run, tail}, nil)
		for coder, most := range map[Coder]int{Zstd: 700, Mixed: 300} {
			var raw bytes.Buffer
			if err := Encode(t.Context(), &raw, old, new, Options{Coder: coder}); err != nil || raw.Len() > most {
				t.Errorf("%s, %v: %d bytes, %v", name, coder, raw.Len(), err)
			}
			if made, err := Patch(raw.Bytes(), old, int64(len(new))); err != nil || !bytes.Equal(made, new) {
				t.Errorf("%s, %v: %d bytes came out: %v", name, coder, len(made), err)
			}
		}
	}
}

// TestAddressesAreLookedUpInPrograms only: of data there may be half a million copies, and the
// table of where they went would take what a device has.
func TestAddressesAreLookedUpInPrograms(t *testing.T) {
	noise := noises(12)
	old := noise(300_000)
	var new []byte
	for at := 200_000; at >= 0; at -= 100 {
		new = append(append(new, old[at:at+100]...), noise(3)...)
	}
	var raw bytes.Buffer
	if err := Encode(t.Context(), &raw, old, new, Options{Coder: Mixed}); err != nil {
		t.Fatal(err)
	}
	h, err := ReadHead(bytes.NewReader(raw.Bytes()))
	if err != nil || h.copies.n < 1000 {
		t.Fatalf("%d copies, %v", h.copies.n, err)
	}
	d, err := NewDecoder(h, bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	d.rebaser.addresses = func() *addresses { t.Error("looked up"); return newAddresses(h.copies.since(-1), h.OldLength) }
	for i, s := range h.Segments {
		if _, err := d.Segment(nil, i, raw.Bytes()[s.Offset:s.Offset+s.Length]); err != nil {
			t.Fatal(err)
		}
	}
}

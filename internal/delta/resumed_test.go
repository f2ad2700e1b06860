package delta

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// noises gives noise, other one each time, the same for the same seed.
func noises(seed byte) func(n int) []byte {
	source := rand.NewChaCha8([32]byte{seed})
	return func(n int) []byte {
		data := make([]byte, n)
		_, _ = source.Read(data) // never fails
		return data
	}
}

// TestACopyIsResumedBehindWhatIsUnlike: of two compressed images some places are the same, far
// apart, where they were.
func TestACopyIsResumedBehindWhatIsUnlike(t *testing.T) {
	noise := noises(7)
	const length, island = 1 << 20, 2000
	for name, shift := range map[string]int{"where they were": 0, "further on": 700, "before": -700} {
		old, new := noise(length), noise(length)
		same := 0
		for at := 50_000; at < length-50_000; at += 200_000 {
			copy(new[at+shift:at+shift+island], old[at:at+island])
			same += island
		}
		for _, coder := range []Coder{Zstd, Mixed} {
			var raw bytes.Buffer
			if err := Encode(t.Context(), &raw, old, new, Options{Coder: coder}); err != nil || raw.Len() > length-same+1000 {
				t.Errorf("%s, %v: %d bytes, though %d of %d are the same: %v", name, coder, raw.Len(), same, length, err)
			}
		}
		list := (&matcher{old: old, new: new}).resumed(nil, 0, length, -shift)
		for _, c := range list {
			if c.size < island || c.from-c.at != int32(-shift) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if len(list)*island != same {
			t.Errorf("%s: %d copies, want %d", name, len(list), same/island)
		}
	}
}

// TestACopyIsNotResumedOutsideOfTheOldImage: nor in short runs.
func TestACopyIsNotResumedOutsideOfTheOldImage(t *testing.T) {
	old := noises(8)(1000)
	m := &matcher{old: old, new: append(append(make([]byte, 100), old...), make([]byte, 100)...)}
	for shift, want := range map[int]int{-100: 1, 0: 0, 5000: 0, -5000: 0} {
		if list := m.resumed(nil, 0, len(m.new), shift); len(list) != want {
			t.Errorf("shift %d: %+v", shift, list)
		}
	}
	short := append([]byte(nil), old...)
	for at := 0; at < len(short); at += matchResumed {
		short[at] ^= 1
	}
	if list := (&matcher{old: old, new: short}).resumed(nil, 0, len(short), 0); len(list) != 0 {
		t.Errorf("%d copies of %d bytes each", len(list), list[0].size)
	}
}

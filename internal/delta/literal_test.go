package delta_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"groundswell/internal/delta"
)

// TestNoiseBesideTextCostsWhatItIs: models that learn from noise would cost more for it
// than it has bytes, and stored text as much as it has.
func TestNoiseBesideTextCostsWhatItIs(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const block, rounds = 64 << 10, 4
	old := noise(r, block)
	var new []byte
	for range rounds {
		new = append(append(append(new, noise(r, 3*block)...), text(r, block)...), old...)
	}
	made := encode(t, old, new, delta.Options{Coder: delta.Mixed})
	got, err := decode(old, made, nil)
	if err != nil || !bytes.Equal(got, new) {
		t.Fatalf("not what it was: %v", err)
	}
	const stored = 3 * block * rounds
	alone := len(encode(t, nil, text(r, block*rounds), delta.Options{Coder: delta.Mixed}))
	if limit := stored + stored/500 + alone + alone/4; len(made) > limit {
		t.Errorf("%d bytes, of which %d are noise, and the text alone has %d", len(made), stored, alone)
	}
}

package expand

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
)

// TestARecordedDeltaStillDecodes: one of version 3, between archives by pigz, libdeflate, Go
// and gzip. A predictor of package deflateparse that foretells anything else makes another
// image of it.
func TestARecordedDeltaStillDecodes(t *testing.T) {
	old, err := os.ReadFile("testdata/parsed.old")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/parsed.delta")
	if err != nil {
		t.Fatal(err)
	}
	out, err := decode(raw, old)
	if err != nil {
		t.Fatal(err)
	}
	const want = "32c3093a5f69c6b33c1da954d8b2f3abc2a53c0b75fe459f7f29f65c6cbc5b5c"
	if got := fmt.Sprintf("%x", sha256.Sum256(out)); got != want {
		t.Errorf("%d bytes with the sum %s, want %s", len(out), got, want)
	}
	h, err := ReadHead(raw)
	if err != nil {
		t.Fatal(err)
	}
	efforts := map[uint8]bool{}
	for _, s := range h.New {
		efforts[s.Effort] = true
	}
	if raw[len(magic)] != versionParsed || len(efforts) < 3 {
		t.Errorf("version %d, efforts %v", raw[len(magic)], efforts)
	}
}

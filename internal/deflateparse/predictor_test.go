package deflateparse

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"testing"
)

// flushed is a stream of many short blocks.
func flushed(t testing.TB, content []byte, each int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 6)
	for len(content) > 0 && err == nil {
		n := min(each, len(content))
		if _, err = w.Write(content[:n]); err == nil {
			err = w.Flush()
		}
		content = content[n:]
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestAShortGroupCostsLittle: it does not look at every place that is known, or a small form
// keeps a device busy for hours.
func TestAShortGroupCostsLittle(t *testing.T) {
	var p predictor
	p.reset(1)
	groups := func(n, length int) {
		for range n {
			p.slide()
			p.content = append(p.content, make([]byte, length)...)
		}
	}
	groups(3, maxContent)
	p.slide()
	const nowhere = 1<<hashBits - 1 // of no place in zeros
	beyond := uint16(p.base + len(p.content) - window - 9)
	p.last[nowhere] = beyond
	if groups(100, 1); p.last[nowhere] != beyond {
		t.Error("places age by each group of a byte")
	}
	if groups(2, ageing); p.last[nowhere] == beyond {
		t.Error("places do not age")
	}
}

// TestShortBlocksComeBack: places age only now and then, some are told by their lowest bits
// that are others'.
func TestShortBlocksComeBack(t *testing.T) {
	all := contents(t)
	for _, what := range []string{"lines of 130000", "program of 130000", "far matches"} {
		content := all[what]
		for _, each := range []int{300, 5_000} {
			stream := flushed(t, content, each)
			for effort := range Efforts {
				roundTripBy(t, what, stream, content, effort)
			}
		}
	}
}

// TestCorrectionsAreNoLongerThanRecords: whoever is taken to have made a stream.
func TestCorrectionsAreNoLongerThanRecords(t *testing.T) {
	all, by := contents(t), compressors()
	for _, name := range []string{"go -2", "go 1", "go 6"} {
		for _, what := range []string{"program of 65535", "lines of 65535", "noise", "long runs", "three"} {
			stream := by[name](all[what])
			plain := len(formOf(t, stream, 0))
			for effort := range Efforts {
				if n := len(formOf(t, stream, effort)); n > plain {
					t.Errorf("%s by %s, effort %d: %d bytes, without it %d", what, name, effort, n, plain)
				}
			}
		}
	}
}

// TestWhatWasNotForeseenIsRanked: distances are others wherever something stands between.
func TestWhatWasNotForeseenIsRanked(t *testing.T) {
	content := contents(t)["a program"]
	for name, c := range map[string]struct {
		stream []byte
		effort int
	}{
		"gzip at level 6": {gzip(t, content, "-6"), 1},
		"Go at level 1":   {compressors()["go 1"](content), 3},
	} {
		form := formOf(t, c.stream, c.effort)
		near, far := 0, 0
		for len(form) > 0 {
			var h head
			if !h.parse(form) {
				t.Fatal("no head of a group")
			}
			form = form[headLength+h.header:]
			for r := form[:h.records*recordLength]; h.foretold && len(r) > 0; r = r[recordLength:] {
				switch v := binary.LittleEndian.Uint16(r[2:]); {
				case v < ranked:
					far++
				case v < literal:
					near++
				}
			}
			form = form[h.records*recordLength+h.content:]
		}
		if near < 10*far || near < 100 {
			t.Errorf("%s: %d matches by rank, %d by distance", name, near, far)
		}
	}
}

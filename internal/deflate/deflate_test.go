package deflate

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"groundswell/internal/deflate/deflatetest"
	"groundswell/internal/prefix"
)

// contents are of many kinds, and of lengths around those at which windows and blocks end.
func contents(t testing.TB) map[string][]byte {
	t.Helper()
	all := deflatetest.Contents(t, 32_768, 65_274, 65_275, 65_300, 65_535, 65_536, 65_537, 98_000)
	noise := all["noise"]
	all["far matches"], all["too far matches"] = bytes.Repeat(noise[:32_506], 5), bytes.Repeat(noise[:32_600], 5)
	return all
}

func made(t testing.TB, w *Writer, way Way, content []byte) []byte {
	t.Helper()
	if err := w.Reset(way); err != nil {
		t.Fatal(err)
	}
	return w.Finish(w.Write(nil, content))
}

// TestGzipIsMadeAgain: the gzip of this machine made it, by each level.
func TestGzipIsMadeAgain(t *testing.T) {
	w := &Writer{}
	for name, content := range contents(t) {
		path := t.TempDir() + "/content"
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for level := 1; level <= 9; level++ {
			want, err := exec.Command("gzip", "-nc"+strconv.Itoa(level), path).Output()
			if err != nil {
				t.Fatal(err)
			}
			want = want[10 : len(want)-8] // without the head, and CRC and length
			if got := made(t, w, Way{Maker: Gzip, Level: uint8(level)}, content); !bytes.Equal(got, want) {
				t.Errorf("%s, level %d: %d bytes, gzip's has %d; the first other one is at %d", name, level, len(got), len(want), prefix.Common(got, want))
			}
		}
	}
}

// TestZlibIsMadeAgain: testdata has the digests of what zlib 1.2.13 (deflateInit2 with a
// window of -15) makes of the contents that are the same everywhere.
func TestZlibIsMadeAgain(t *testing.T) {
	raw, err := os.ReadFile("testdata/zlib-1.2.13.txt")
	if err != nil {
		t.Fatal(err)
	}
	all, w := contents(t), &Writer{}
	for line := range strings.Lines(string(raw)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 {
			t.Fatalf("%q", line)
		}
		level, errLevel := strconv.Atoi(f[1])
		memory, errMemory := strconv.Atoi(f[2])
		content, ok := all[f[0]]
		if err := errors.Join(errLevel, errMemory); err != nil || !ok {
			t.Fatalf("%q: %v", line, err)
		}
		sum := sha256.Sum256(made(t, w, Way{Zlib, uint8(level), uint8(memory)}, content))
		if hex.EncodeToString(sum[:8]) != f[3] {
			t.Errorf("%s, level %d, memory %d: another stream", f[0], level, memory)
		}
	}
}

// TestWritesMayBeCutAnyhow: what comes out is the same, and so is after how much content
// it comes.
func TestWritesMayBeCutAnyhow(t *testing.T) {
	content, w := contents(t)["a program"], &Writer{}
	random := rand.New(rand.NewPCG(3, 4))
	for _, way := range []Way{{Gzip, 9, 0}, {Zlib, 6, 8}, {Zlib, 1, 9}} {
		whole := made(t, w, way, content)
		if err := w.Reset(way); err != nil {
			t.Fatal(err)
		}
		var out []byte
		for rest := content; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(9000))
			out = w.Write(out, rest[:n])
			rest = rest[n:]
		}
		if out = w.Finish(out); !bytes.Equal(out, whole) {
			t.Errorf("%+v: another stream", way)
		}
	}
}

// TestAStreamThatWasGivenUpLeavesNothing in the writer.
func TestAStreamThatWasGivenUpLeavesNothing(t *testing.T) {
	content, w := contents(t)["a program"], &Writer{}
	ways := []Way{{Zlib, 9, 8}, {Zlib, 1, 8}, {Gzip, 6, 0}, {Zlib, 6, 9}, {Gzip, 1, 0}, {Zlib, 2, 1}}
	for _, first := range ways {
		for _, way := range ways {
			for _, n := range []int{100_000, 10} {
				if err := w.Reset(first); err != nil {
					t.Fatal(err)
				}
				w.Write(nil, content[n:n+70_000])
				if got, want := made(t, w, way, content[:n]), made(t, &Writer{}, way, content[:n]); !bytes.Equal(got, want) {
					t.Errorf("%+v after %+v, %d bytes: another stream", way, first, n)
				}
			}
		}
	}
}

func TestUnknownWaysAreRefused(t *testing.T) {
	for _, way := range []Way{{}, {Zlib, 0, 8}, {Zlib, 10, 8}, {Zlib, 6, 0}, {Zlib, 6, 10}, {Gzip, 6, 8}, {Gzip, 0, 0}, {2, 6, 8}} {
		if err := new(Writer).Reset(way); err == nil {
			t.Errorf("%+v", way)
		}
	}
}

// FuzzWriter: whatever the content, what comes out holds it.
func FuzzWriter(f *testing.F) {
	for _, content := range [][]byte{nil, []byte("abcabcabcabc"), bytes.Repeat([]byte("0123456789"), 9000)} {
		f.Add(content, uint8(0), uint8(9), uint8(8))
		f.Add(content, uint8(1), uint8(1), uint8(0))
	}
	w := &Writer{}
	f.Fuzz(func(t *testing.T, content []byte, maker, level, memory uint8) {
		if w.Reset(Way{Maker(maker), level, memory}) != nil {
			return
		}
		for len(content) > 0 && len(content) < 70_000 {
			content = append(content, content...) // so that the window is left
		}
		got, err := io.ReadAll(flate.NewReader(bytes.NewReader(w.Finish(w.Write(nil, content)))))
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes of %d, or others: %v", len(got), len(content), err)
		}
	})
}

package find

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"groundswell/internal/expand"
)

// compressed is data by a program that reads and writes pipes.
func compressed(t testing.TB, data []byte, program string, flags ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, append([]string{"-c"}, flags...)...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestXzIsLookedThrough, whatever it was told: only what it chose matters.
func TestXzIsLookedThrough(t *testing.T) {
	for _, flags := range [][]string{
		{"-6"}, {"-0"}, {"-9e"}, {"--check=sha256", "-1"}, {"--check=none"}, {"--check=crc32", "--x86", "--lzma2=preset=6,dict=32MiB"},
		{"--lzma2=preset=6,lc=2,lp=2,pb=0"}, {"-T2", "--block-size=700000"}, {"--format=lzma"}, {"--format=lzma", "-1"},
	} {
		old := image(compressed(t, text(1, 2<<20), "xz", flags...), noise(4, 30_000))
		new := image(compressed(t, text(2, 2<<20+100_001), "xz", flags...), noise(5, 30_000), compressed(t, text(2, 600), "xz", flags...))
		raw := encoded(t, old, new)
		if got := decoded(t, raw, old); !bytes.Equal(got, new) {
			t.Fatalf("%v: %d bytes of %d, or others", flags, len(got), len(new))
		}
		if n := plain(t, old, new); len(raw) > n-(n-30_000)/2 {
			t.Errorf("%v: %d bytes, without looking through %d", flags, len(raw), n)
		}
	}
}

// TestEachBlockOfAnXzFileIsFound, and what only begins as one is not.
func TestEachBlockOfAnXzFileIsFound(t *testing.T) {
	file := compressed(t, text(1, 500_000), "xz", "-T1", "--block-size=100000", "--check=sha256")
	for name, c := range map[string]struct {
		image []byte
		want  int
	}{
		"five blocks":      {append([]byte("\xfd7zXZ\x00 no "), file...), 5},
		"twice":            {append(bytes.Clone(file), file...), 10},
		"cut":              {file[:len(file)/2], 2},
		"a broken file":    {broken(file, 9), 0},
		"a broken block":   {broken(file, 14), 0},
		"a broken content": {broken(file, 4000), 0},
	} {
		list, err := streams(t.Context(), c.image, 0)
		if err != nil || len(list) != c.want {
			t.Errorf("%s: %d of %d: %v", name, len(list), c.want, err)
		}
		for _, f := range list {
			if f.Codec != expand.LZMA2 {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

func broken(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 0x40
	return out
}

// TestAStreamThatIsTooLargeIsLeftAsItIs: it would not fit into the memory of an encoder.
func TestAStreamThatIsTooLargeIsLeftAsItIs(t *testing.T) {
	data := compressed(t, text(1, 500_000), "xz")
	for most, want := range map[int64]int{400_000: 0, 1 << 20: 1} {
		if list, err := streams(t.Context(), data, most); err != nil || len(list) != want {
			t.Errorf("%d bytes: %d of %d: %v", most, len(list), want, err)
		}
	}
}

// TestWhatIsNoStreamCostsNoMoreThanItMay: each head in it is that of a frame with a stored
// block of 128 KiB, behind which something else comes.
func TestWhatIsNoStreamCostsNoMoreThanItMay(t *testing.T) {
	frames := make([]byte, 300_000)
	for at := 0; at < len(frames); at += 60 {
		copy(frames[at:], "\x28\xb5\x2f\xfd\x00\x58\x00\x00\x10")
	}
	file := compressed(t, text(1, 500_000), "xz")
	if list, err := streams(t.Context(), append(frames, file...), 0); err != nil || len(list) != 0 {
		t.Errorf("%d streams: %v", len(list), err)
	}
	if list, err := streams(t.Context(), append(frames[:6_000], file...), 0); err != nil || len(list) != 1 {
		t.Errorf("%d streams: %v", len(list), err)
	}
}

// program is the first bytes of this test's own, of which every version differs from the
// others in some places.
func program(t testing.TB, version byte, n int) []byte {
	t.Helper()
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Clone(data[1<<20:][:n])
	for i := 7; i < n; i += 50_000 {
		data[i] = version
	}
	return append(noise(version, int(version)*100), data...)
}

// TestZstdIsLookedThrough, at whatever level.
func TestZstdIsLookedThrough(t *testing.T) {
	for _, flags := range [][]string{{"-1"}, {"-19"}, {"--ultra", "-22"}, {"--no-check"}, {"-T2", "-9"}} {
		old := image(compressed(t, program(t, 1, 2<<20), "zstd", flags...))
		new := image(compressed(t, program(t, 2, 2<<20), "zstd", flags...), compressed(t, text(2, 900), "zstd", flags...))
		raw := encoded(t, old, new)
		if got := decoded(t, raw, old); !bytes.Equal(got, new) {
			t.Fatalf("%v: %d bytes of %d, or others", flags, len(got), len(new))
		}
		if n := plain(t, old, new); len(raw) > n/2 {
			t.Errorf("%v: %d bytes, without looking through %d", flags, len(raw), n)
		}
	}
}

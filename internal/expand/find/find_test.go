package find

import (
	"bytes"
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// text is prose of n bytes, of which every version differs from the others in some places.
func text(version, n int) []byte {
	var out []byte
	r := rand.New(rand.NewPCG(7, 7))
	for i := 0; len(out) < n; i++ {
		v := 0
		if i%997 == 3 {
			v = version
		}
		out = fmt.Appendf(out, "line %d of chapter %d, version %d\n", r.IntN(1000), r.IntN(100_000), v)
	}
	return out[:n]
}

func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

// gzip compresses by the program.
func gzip(t testing.TB, data []byte, flags ...string) []byte {
	t.Helper()
	cmd := exec.Command("gzip", append([]string{"-nc"}, flags...)...)
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append(cmd.Args, path)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func ends(t testing.TB, data []byte) []int64 {
	t.Helper()
	index, err := block.Make(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return index.Segments()
}

func encoded(t testing.TB, old, new []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Encode(t.Context(), &out, old, new, Options{Ends: ends(t, new), Coder: delta.Zstd, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decoder(t testing.TB, raw, old []byte) (*expand.Head, *expand.Decoder) {
	t.Helper()
	h, err := expand.ReadHead(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, err := expand.NewDecoder(h, bytes.NewReader(old), &expand.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	return h, d
}

func decoded(t testing.TB, raw, old []byte) []byte {
	t.Helper()
	h, d := decoder(t, raw, old)
	var out bytes.Buffer
	for n := range h.Units {
		if err := d.Unit(n, bytes.NewReader(raw), &out); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func plain(t testing.TB, old, new []byte) int {
	t.Helper()
	var out bytes.Buffer
	if err := delta.Encode(t.Context(), &out, old, new, delta.Options{Ends: ends(t, new), Coder: delta.Zstd}); err != nil {
		t.Fatal(err)
	}
	return out.Len()
}

// image is a firmware with a compressed part of some content in it.
func image(parts ...[]byte) []byte {
	out := noise(1, 100_000)
	for i, p := range parts {
		out = append(out, p...)
		out = append(out, noise(byte(2+i), 5_000)...)
	}
	return out
}

func TestWhatIsCompressedIsLookedThrough(t *testing.T) {
	for _, flag := range []string{"-1", "-6", "-9"} {
		old := image(gzip(t, text(1, 3<<20), flag), gzip(t, text(1, 50_000), "-9"))
		new := image(gzip(t, text(2, 3<<20+100_000), flag), gzip(t, text(2, 50_000), "-9"))
		raw := encoded(t, old, new)
		if got := decoded(t, raw, old); !bytes.Equal(got, new) {
			t.Fatalf("%s: %d bytes of %d, or others", flag, len(got), len(new))
		}
		if n := plain(t, old, new); len(raw) > n/3 {
			t.Errorf("%s: %d bytes, without looking through %d", flag, len(raw), n)
		}
	}
}

// TestAnyUnitCanBeTheFirst: after an interruption, or when others were had otherwise.
func TestAnyUnitCanBeTheFirst(t *testing.T) {
	for name, compress := range map[string]func(data []byte) []byte{
		"gzip": func(data []byte) []byte { return gzip(t, data) },
		"Go":   func(data []byte) []byte { return other(t, data) },
	} {
		t.Run(name, func(t *testing.T) {
			old := image(compress(noiseText(1, 5<<20)), compress(noiseText(1, 100_000)))
			new := image(compress(noiseText(2, 5<<20)), compress(noiseText(2, 100_000)))
			eachUnitFirst(t, old, new)
		})
	}
}

func eachUnitFirst(t *testing.T, old, new []byte) {
	raw := encoded(t, old, new)
	h, _ := decoder(t, raw, old)
	if len(h.Units) < 3 {
		t.Fatalf("%d units", len(h.Units))
	}
	for n := range h.Units {
		_, d := decoder(t, raw, old)
		u := h.Units[n]
		asked := &asked{ReaderAt: bytes.NewReader(raw), from: int64(len(raw))}
		var out bytes.Buffer
		err := d.Unit(n, asked, &out)
		if err != nil || !bytes.Equal(out.Bytes(), new[u.Start:u.Start+u.Size]) {
			t.Fatalf("unit %d: %d bytes of %d, or others: %v", n, out.Len(), u.Size, err)
		}
		if asked.from != h.Units[h.Since(n)].Offset || asked.to != u.Offset+u.Length {
			t.Errorf("unit %d asked for the bytes %d to %d, since unit %d", n, asked.from, asked.to, h.Since(n))
		}
	}
}

// asked is what was read of a delta.
type asked struct {
	io.ReaderAt
	from, to int64
}

func (a *asked) ReadAt(p []byte, at int64) (int, error) {
	a.from, a.to = min(a.from, at), max(a.to, at+int64(len(p)))
	return a.ReaderAt.ReadAt(p, at)
}

// noiseText compresses by half only.
func noiseText(version byte, n int) []byte {
	data := noise(9, n)
	for i := range data {
		data[i] &= 0x1f
		if i%50_000 == 7 {
			data[i] = version
		}
	}
	return data
}

// TestWhatNoRulesMakeAgainIsTakenApart: Go's compressor has rules of its own.
func TestWhatNoRulesMakeAgainIsTakenApart(t *testing.T) {
	old := image(other(t, text(1, 1<<20)), gzip(t, text(1, 300_000)))
	new := image(other(t, text(2, 1<<20)), gzip(t, text(2, 300_000)), other(t, nil))
	raw := encoded(t, old, new)
	if got := decoded(t, raw, old); !bytes.Equal(got, new) {
		t.Fatalf("%d bytes of %d, or others", len(got), len(new))
	}
	if n := plain(t, old, new); len(raw) > n/3 {
		t.Errorf("%d bytes, without looking through %d", len(raw), n)
	}
	h, _ := decoder(t, raw, old)
	for _, list := range [][]expand.Stream{h.Old, h.New} {
		if len(list) != 2 || list[0].Codec != expand.DeflateParsed || list[0].Effort == 0 || list[1].Codec != expand.Deflate {
			t.Errorf("%+v", list)
		}
	}
}

// other compresses by rules that are neither zlib's nor GNU gzip's.
func other(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := stdgzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestOnlyTheNewOneHasToBeMadeAgain: whoever compressed the old one, its content is used.
func TestOnlyTheNewOneHasToBeMadeAgain(t *testing.T) {
	old, new := image(other(t, text(1, 2<<20))), image(gzip(t, text(2, 2<<20)))
	raw := encoded(t, old, new)
	if h, _ := decoder(t, raw, old); h.Old[0].Codec != expand.Deflate || raw[3] != 1 {
		t.Errorf("codec %d, version %d", h.Old[0].Codec, raw[3])
	}
	if got := decoded(t, raw, old); !bytes.Equal(got, new) {
		t.Fatalf("%d bytes of %d, or others", len(got), len(new))
	}
	if n := plain(t, old, new); len(raw) > n/2 {
		t.Errorf("%d bytes, without looking through %d", len(raw), n)
	}
}

// TestAFewForeignStreamsDoNotChangeTheFormat: agents of before would have no delta at all.
func TestAFewForeignStreamsDoNotChangeTheFormat(t *testing.T) {
	for n, want := range map[int]byte{2_000: 1, 200_000: 3} {
		old := image(gzip(t, noiseText(1, 1<<20)), other(t, noiseText(3, n)))
		new := image(gzip(t, noiseText(2, 1<<20)), other(t, noiseText(4, n)))
		raw := encoded(t, old, new)
		if raw[3] != want || !bytes.Equal(decoded(t, raw, old), new) {
			t.Errorf("%d bytes of another: version %d, want %d, or another image", n, raw[3], want)
		}
	}
}

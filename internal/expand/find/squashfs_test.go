package find

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"groundswell/internal/deflate"
	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// squashfs is an image of some files, as mksquashfs makes it by zlib.
func squashfs(t testing.TB, version, level int) []byte {
	t.Helper()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for name, data := range map[string][]byte{
		"usr/lib/large": text(version, 700_000), "usr/lib/same": text(0, 300_000), "etc/small": text(version, 3000), "etc/other": noiseText(byte(version), 150_000),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("mksquashfs", dir, out, "-quiet", "-no-progress", "-reproducible", "-mkfs-time", "1767225600", "-all-time", "1767225600",
		"-all-root", "-comp", "gzip", "-Xcompression-level", strconv.Itoa(level))
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestSquashfsIsLookedThrough, at each of its levels: zlib made it.
func TestSquashfsIsLookedThrough(t *testing.T) {
	for level := 1; level <= 9; level++ {
		old, new := squashfs(t, 1, level), squashfs(t, 2, level)
		list, err := streams(t.Context(), new, 0)
		if err != nil {
			t.Fatal(err)
		}
		made, err := remake(t.Context(), new, list, ends(t, new), 0, delta.MaxImage, 2)
		if err != nil || len(made) != len(list) || len(made) < 10 {
			t.Fatalf("level %d: %d of %d streams are made again: %v", level, len(made), len(list), err)
		}
		raw := encoded(t, old, new)
		if got := decoded(t, raw, old); !bytes.Equal(got, new) {
			t.Fatalf("level %d: %d bytes of %d, or others", level, len(got), len(new))
		}
		if n := plain(t, old, new); len(raw) > n/3 {
			t.Errorf("level %d: %d bytes, without looking through %d", level, len(raw), n)
		}
	}
}

// TestZipArchivesAreLookedThrough: their heads have no checksum of what is behind them.
func TestZipArchivesAreLookedThrough(t *testing.T) {
	archive := func(version int) []byte {
		var out bytes.Buffer
		w := zip.NewWriter(&out)
		for _, name := range []string{"one", "a/longer/name"} {
			content := noiseText(byte(version), 400_000+1000*version)
			stream := &deflate.Writer{}
			if err := stream.Reset(deflate.Way{Maker: deflate.Zlib, Level: 6, MemLevel: 9}); err != nil {
				t.Fatal(err)
			}
			raw := stream.Finish(stream.Write(nil, content))
			f, err := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Deflate, CompressedSize64: uint64(len(raw)), UncompressedSize64: uint64(len(content)), Extra: []byte{1, 2, 3, 4, 5}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(raw); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	old, new := archive(1), archive(2)
	raw := encoded(t, old, new)
	if got := decoded(t, raw, old); !bytes.Equal(got, new) {
		t.Fatalf("%d bytes of %d, or others", len(got), len(new))
	}
	if n := plain(t, old, new); len(raw) > n/3 {
		t.Errorf("%d bytes, without looking through %d", len(raw), n)
	}
}

// TestHeadsOfAllKindsAreFound, and what only begins as one is not.
func TestHeadsOfAllKindsAreFound(t *testing.T) {
	content := text(1, 5000)
	member := gzip(t, content)
	body := member[10:]
	head := func(flags byte, more string) []byte {
		return append(append([]byte{0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3}, more...), body...)
	}
	broken := bytes.Clone(member)
	broken[len(broken)-7] ^= 1
	for name, c := range map[string]struct {
		image []byte
		at    int64 // 0: not found
	}{
		"plain":              {member, 10},
		"a name":             {head(8, "name\x00"), 15},
		"a comment":          {head(16, "why\x00"), 14},
		"all there is":       {head(2|4|8|16, "\x02\x00ab"+"name\x00"+"why\x00"+"cc"), 25},
		"something before":   {append([]byte("x\x1f\x8b\x08P"), member...), 15},
		"a wrong checksum":   {broken, 0},
		"cut":                {member[:len(member)-1], 0},
		"cut in the head":    {head(8, "name\x00")[:12], 0},
		"a name without end": {append([]byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3}, bytes.Repeat([]byte{'n'}, 9000)...), 0},
		"too small":          {gzip(t, text(1, expand.LeastStream-1)), 0},
		"nothing":            {nil, 0},
	} {
		list, err := streams(t.Context(), c.image, 0)
		switch {
		case err != nil:
			t.Error(err)
		case c.at == 0 && len(list) != 0, c.at != 0 && (len(list) != 1 || list[0].At != c.at):
			t.Errorf("%s: %+v", name, list)
		}
	}
}

// FuzzStreams: whatever an image holds.
func FuzzStreams(f *testing.F) {
	f.Add(gzip(f, text(1, 600)))
	f.Add([]byte("\x78\x9c\x03\x00\x00\x00\x00\x01PK\x03\x04"))
	f.Fuzz(func(t *testing.T, image []byte) {
		list, err := streams(t.Context(), image, 0)
		if err != nil {
			t.Fatal(err)
		}
		end := int64(0)
		for _, s := range list {
			if s.At < end || s.Length < 1 || s.At+s.Length > int64(len(image)) {
				t.Fatalf("%+v of %d", list, len(image))
			}
			end = s.At + s.Length
		}
	})
}

package block

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// noise is the same for the same seed, for ever.
func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

func indexOf(t testing.TB, data []byte) Index {
	t.Helper()
	x, err := Make(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestWhatIsCutNeverChanges: devices cut what they run and look for the blocks of a
// release that was cut years later, or before.
func TestWhatIsCutNeverChanges(t *testing.T) {
	sum := sha256.Sum256(indexOf(t, noise(1, 3<<20)).Bytes())
	if got, want := hex.EncodeToString(sum[:8]), "396ec59cecb93f77"; got != want {
		t.Errorf("the index of the same bytes has become %s, it was %s", got, want)
	}
}

func TestIndexIsReadBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := noise(byte(rapid.Int().Draw(rt, "seed")), rapid.IntRange(1, 2<<20).Draw(rt, "length"))
		x := indexOf(t, data)
		got, err := Read(x.Bytes(), x.Length)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(x, got); diff != "" {
			rt.Error(diff)
		}
		for i, b := range x.Blocks {
			if err := b.Check(data[b.Offset : b.Offset+int64(b.Length)]); err != nil {
				rt.Error(err)
			}
			if b.Length > 4*x.Normal || x.At(b.Offset) != i || x.At(b.Offset+int64(b.Length)-1) != i {
				rt.Errorf("block %d: %d bytes, its ends lie in %d and %d", i, b.Length, x.At(b.Offset), x.At(b.Offset+int64(b.Length)-1))
			}
		}
	})
}

// TestWhatIsTheSameFallsIntoTheSameBlocks also behind bytes that were put in.
func TestWhatIsTheSameFallsIntoTheSameBlocks(t *testing.T) {
	old := noise(2, 4<<20)
	changed := slices.Concat(old[:1<<20], []byte("something new"), old[1<<20:])
	known := map[[32]byte]bool{}
	for _, b := range indexOf(t, old).Blocks {
		known[b.SHA256] = true
	}
	fresh := 0
	for _, b := range indexOf(t, changed).Blocks {
		if !known[b.SHA256] {
			fresh += b.Length
		}
	}
	if fresh > 512<<10 {
		t.Errorf("%d bytes are in no block of before", fresh)
	}
}

func TestSegmentsEndWhereBlocksEnd(t *testing.T) {
	x := indexOf(t, noise(3, 5<<20))
	ends := map[int64]bool{}
	for _, b := range x.Blocks {
		ends[b.Offset+int64(b.Length)] = true
	}
	last := int64(0)
	for _, end := range x.Segments() {
		if !ends[end] || end-last > MaxSegment {
			t.Errorf("segment from %d to %d", last, end)
		}
		last = end
	}
	if last != x.Length {
		t.Errorf("the last ends at %d of %d", last, x.Length)
	}
}

func TestMakeWantsTheLength(t *testing.T) {
	for _, n := range []int64{1, 99, 101, 1 << 40} {
		if _, err := Make(t.Context(), bytes.NewReader(make([]byte, 100)), n); !errors.Is(err, ErrLength) {
			t.Errorf("100 bytes for %d: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, bytes.NewReader(make([]byte, 100)), 100); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestBadIndexesAreRefused(t *testing.T) {
	good := indexOf(t, noise(4, 300_000))
	raw := good.Bytes()
	head := func(length, normal, count uint64) []byte {
		out := []byte(magic)
		for _, v := range []uint64{length, normal, count} {
			out = binary.AppendUvarint(out, v)
		}
		return out
	}
	with := func(change func(x *Index)) []byte {
		x := good
		x.Blocks = slices.Clone(good.Blocks)
		change(&x)
		return x.Bytes()
	}
	padded := slices.Concat([]byte(magic), []byte{0x80 | byte(300_000&0x7f), 0x80 | byte(300_000>>7&0x7f), 0x80 | byte(300_000>>14), 0}, raw[len(magic)+3:])
	for name, bad := range map[string][]byte{
		"nothing":                nil,
		"something else":         []byte("{}"),
		"another version":        append([]byte("GSBI\x02"), raw[len(magic):]...),
		"cut short in its head":  raw[:len(magic)+2],
		"cut short":              raw[:len(raw)-1],
		"something behind it":    append(slices.Clone(raw), 0),
		"another length":         with(func(x *Index) { x.Length++ }),
		"a block too few":        with(func(x *Index) { x.Blocks = x.Blocks[1:] }),
		"a block too large":      with(func(x *Index) { x.Blocks[0].Length = MaxBlock + 1 }),
		"an empty block":         with(func(x *Index) { x.Blocks[0].Length = 0 }),
		"a block past the end":   with(func(x *Index) { x.Blocks[len(x.Blocks)-1].Length++ }),
		"an odd normal size":     with(func(x *Index) { x.Normal++ }),
		"a tiny normal size":     with(func(x *Index) { x.Normal = 64 }),
		"a huge normal size":     head(300_000, 1<<40, 1),
		"no block":               head(300_000, 64<<10, 0),
		"more blocks than bytes": head(300_000, 64<<10, 1<<50),
		"a number too long":      padded,
	} {
		if _, err := Read(bad, good.Length); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIndexIsSmall: below 1 % of the artifact, for all but the smallest.
func TestIndexIsSmall(t *testing.T) {
	for _, length := range []int{8 << 10, 256 << 10, 16 << 20} {
		if n := len(indexOf(t, noise(5, length)).Bytes()); n*100 > length {
			t.Errorf("%d bytes of index for %d", n, length)
		}
	}
}

func packer(t testing.TB) *Packer {
	t.Helper()
	p, err := NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func unpacker(t testing.TB) *Unpacker {
	t.Helper()
	u, err := NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func blockOf(data []byte) Block { return Block{Length: len(data), SHA256: sha256.Sum256(data)} }

func TestPackedBlocksAreUnpacked(t *testing.T) {
	p, u := packer(t), unpacker(t)
	for name, data := range map[string][]byte{
		"noise": noise(6, 100_000), "a byte": {7}, "zeros": make([]byte, MaxBlock), "text": bytes.Repeat([]byte("firmware "), 5000),
	} {
		packed := p.Pack([]byte("before"), data)[len("before"):]
		if len(packed) > MaxPacked(len(data)) {
			t.Errorf("%s: %d bytes become %d", name, len(data), len(packed))
		}
		got, err := u.Unpack(nil, blockOf(data), packed)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadPackedBlocksAreRefused(t *testing.T) {
	p, u := packer(t), unpacker(t)
	data := bytes.Repeat([]byte("firmware "), 5000)
	b, packed := blockOf(data), p.Pack(nil, data)
	bomb := p.Pack(nil, make([]byte, MaxBlock))
	e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		packed []byte
		want   error
	}{
		"nothing":                    {nil, ErrPacked},
		"only how":                   {[]byte{stored}, ErrPacked},
		"an unknown way":             {append([]byte{9}, packed[1:]...), ErrPacked},
		"cut short":                  {packed[:len(packed)-1], ErrPacked},
		"larger than the block":      {append([]byte{stored}, append(data, 0)...), ErrPacked},
		"a bomb":                     {bomb, ErrPacked},
		"a frame behind the frame":   {append(slices.Clone(packed), bomb[1:]...), ErrPacked},
		"no frame":                   {[]byte{compressed, 1, 2, 3, 4, 5, 6}, ErrPacked},
		"another block":              {append([]byte{stored}, noise(7, len(data))...), ErrWrong},
		"another block's compressed": {append([]byte{compressed}, e.EncodeAll(bytes.Repeat([]byte("firmwore "), 5000), nil)...), ErrWrong},
	} {
		if _, err := u.Unpack(nil, b, c.packed); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTablesAreReadBackAndBadOnesRefused(t *testing.T) {
	x := indexOf(t, noise(8, 300_000))
	lengths := make([]int, len(x.Blocks))
	for i, b := range x.Blocks {
		lengths[i] = MaxPacked(b.Length) - i
	}
	table := NewTable(lengths)
	raw := table.Bytes()
	got, err := ReadTable(raw, x)
	if diff := cmp.Diff(table, got); diff != "" || err != nil {
		t.Fatal(diff, err)
	}
	if from, to := got.Range(1); from != int64(lengths[0]) || to-from != int64(lengths[1]) || int64(len(raw)) > MaxTable(x) {
		t.Errorf("the second lies at [%d, %d), of %d bytes", from, to, len(raw))
	}
	large := slices.Clone(lengths)
	large[0] = MaxPacked(x.Blocks[0].Length) + 1
	for name, bad := range map[string][]byte{
		"nothing": nil, "something else": []byte("GSPT\x02"), "cut short": raw[:len(raw)-3], "something behind it": append(slices.Clone(raw), 2),
		"a block too large": NewTable(large).Bytes(),
	} {
		if _, err := ReadTable(bad, x); !errors.Is(err, ErrPacked) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnIndexSaysItselfHowLongTheArtifactIs.
func TestAnIndexSaysItselfHowLongTheArtifactIs(t *testing.T) {
	want := indexOf(t, noise(5, 1<<20))
	raw := want.Bytes()
	if got, err := ReadAny(raw); err != nil || !bytes.Equal(got.Bytes(), raw) {
		t.Errorf("%d blocks of %d, or others: %v", len(got.Blocks), len(want.Blocks), err)
	}
	for _, bad := range [][]byte{nil, raw[:len(magic)], raw[:len(raw)-1], append(bytes.Clone(raw), 0), []byte("GSBI\x02"), bytes.Repeat([]byte{0xff}, 40)} {
		if _, err := ReadAny(bad); !errors.Is(err, ErrIndex) {
			t.Errorf("%.20x: %v", bad, err)
		}
	}
}

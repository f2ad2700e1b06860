package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// ErrPacked: what should be a packed block is none, or of another length.
var ErrPacked = errors.New("bad packed block")

// The first byte of a packed block says how it is packed.
const (
	stored     = 0 // as it is
	compressed = 1 // one zstd frame (RFC 8878)
)

// MaxPacked is how many bytes a packed block of n bytes has at most.
func MaxPacked(n int) int { return n + 1 }

// Packer packs blocks. It is not safe for concurrent use.
type Packer struct{ zstd *zstd.Encoder }

// NewPacker packs as small as it can, whatever time it takes.
func NewPacker() (*Packer, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(4<<20))
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return &Packer{e}, nil
}

// Pack appends data, packed, to dst.
func (p *Packer) Pack(dst, data []byte) []byte {
	begin := len(dst)
	dst = p.zstd.EncodeAll(data, append(dst, compressed))
	if len(dst)-begin > len(data) {
		dst = append(append(dst[:begin], stored), data...)
	}
	return dst
}

// Unpacker unpacks blocks in bounded memory. It is not safe for concurrent use.
type Unpacker struct{ zstd *zstd.Decoder }

// NewUnpacker is what reads what a Packer packed.
func NewUnpacker() (*Unpacker, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBlock), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return &Unpacker{d}, nil
}

// Close frees what an Unpacker holds.
func (u *Unpacker) Close() { u.zstd.Close() }

// Unpack is what packed makes, if that is b: ErrPacked, or ErrWrong. dst is used for
// it if it is large enough.
func (u *Unpacker) Unpack(dst []byte, b Block, packed []byte) ([]byte, error) {
	if len(packed) < 2 || len(packed) > MaxPacked(b.Length) {
		return nil, fmt.Errorf("%w: %d bytes for a block of %d", ErrPacked, len(packed), b.Length)
	}
	data := packed[1:]
	switch packed[0] {
	case stored:
	case compressed:
		var head zstd.Header
		if err := head.Decode(data); err != nil || !head.HasFCS || head.FrameContentSize != uint64(b.Length) || head.Skippable {
			return nil, fmt.Errorf("%w: it does not say that it makes %d bytes", ErrPacked, b.Length)
		}
		if cap(dst) < b.Length {
			dst = make([]byte, 0, b.Length)
		}
		var err error
		if data, err = u.zstd.DecodeAll(data, dst[:0]); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPacked, err)
		}
	default:
		return nil, fmt.Errorf("%w: packed in the unknown way %d", ErrPacked, packed[0])
	}
	if err := b.Check(data); err != nil {
		return nil, err
	}
	return data, nil
}

// tableMagic begins a Table; the last byte is the format's version.
const tableMagic = "GSPT\x01"

// Table says how long each packed block of an artifact is, when they lie one behind
// the other, in the order of its index. It is nobody's promise: who asks by a wrong
// table gets what is no packed block.
type Table struct {
	Offsets []int64 // of each packed block, and of the end
}

// NewTable is the table of packed blocks of these lengths.
func NewTable(lengths []int) Table {
	t := Table{Offsets: make([]int64, 1, len(lengths)+1)}
	for i, n := range lengths {
		t.Offsets = append(t.Offsets, t.Offsets[i]+int64(n))
	}
	return t
}

// Range is where block i lies: bytes [from, to).
func (t Table) Range(i int) (from, to int64) { return t.Offsets[i], t.Offsets[i+1] }

// At is the number of the packed block that byte offset lies in.
func (t Table) At(offset int64) int {
	return sort.Search(len(t.Offsets), func(i int) bool { return t.Offsets[i] > offset }) - 1
}

// Length of all packed blocks together, in bytes.
func (t Table) Length() int64 { return t.Offsets[len(t.Offsets)-1] }

// Bytes is the table as it is served: "GSPT" 1, then the length of each packed block
// as an unsigned varint.
func (t Table) Bytes() []byte {
	out := append(make([]byte, 0, len(tableMagic)+3*len(t.Offsets)), tableMagic...)
	for i := range len(t.Offsets) - 1 {
		out = binary.AppendUvarint(out, uint64(t.Offsets[i+1]-t.Offsets[i]))
	}
	return out
}

// MaxTable is how large the table of an artifact with that index may be, in bytes.
func MaxTable(x Index) int64 { return int64(len(tableMagic) + 4*len(x.Blocks)) }

// ReadTable reads the table of the artifact that x is the index of; ErrPacked.
func ReadTable(raw []byte, x Index) (Table, error) {
	if len(raw) < len(tableMagic) || string(raw[:len(tableMagic)]) != tableMagic {
		return Table{}, fmt.Errorf("%w: a table that does not begin as one", ErrPacked)
	}
	rest := raw[len(tableMagic):]
	lengths := make([]int, len(x.Blocks))
	for i, b := range x.Blocks {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v < 2 || v > uint64(MaxPacked(b.Length)) {
			return Table{}, fmt.Errorf("%w: a table with block %d of %d bytes packed to %d", ErrPacked, i, b.Length, v)
		}
		lengths[i], rest = int(v), rest[n:]
	}
	if len(rest) > 0 {
		return Table{}, fmt.Errorf("%w: a table with something behind it", ErrPacked)
	}
	return NewTable(lengths), nil
}

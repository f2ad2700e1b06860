package block

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"sort"
)

// The refusals of this package.
var (
	// ErrIndex: what should be an index cannot be one, or is not of that artifact.
	ErrIndex = errors.New("bad block index")
	// ErrWrong: the data is not the block's.
	ErrWrong = errors.New("wrong block")
)

// Block is a piece of an artifact.
type Block struct {
	Offset int64 // in the artifact
	Length int   // bytes, [1, MaxBlock]
	SHA256 [sha256.Size]byte
}

// Check is ErrWrong unless data is the block's.
func (b Block) Check(data []byte) error {
	if len(data) != b.Length || sha256.Sum256(data) != b.SHA256 {
		return fmt.Errorf("%w: at %d", ErrWrong, b.Offset)
	}
	return nil
}

// Name is the block's digest in lower-case hex.
func (b Block) Name() string { return hex.EncodeToString(b.SHA256[:]) }

// Index lists the blocks of an artifact, one behind the other, from its first byte to
// its last.
type Index struct {
	Length int64 // of the artifact in bytes
	Normal int   // the normal size that it was cut by
	Blocks []Block
}

// magic begins an index; the last byte is the format's version.
const magic = "GSBI\x01"

// LeastDelta is how long an index is, in bytes, for which a delta from another one is asked
// for and made: the question costs some hundred.
const LeastDelta = 2 << 10

// Bytes is the index as it is stored and signed:
//
//	"GSBI" 1, length, normal size, number of blocks, then of each block its length
//	and the 32 bytes of its SHA-256
//
// where numbers are unsigned varints as of encoding/binary.
func (x Index) Bytes() []byte {
	out := append(make([]byte, 0, len(magic)+12+len(x.Blocks)*(sha256.Size+3)), magic...)
	out = binary.AppendUvarint(out, uint64(x.Length))
	out = binary.AppendUvarint(out, uint64(x.Normal))
	out = binary.AppendUvarint(out, uint64(len(x.Blocks)))
	for _, b := range x.Blocks {
		out = binary.AppendUvarint(out, uint64(b.Length))
		out = append(out, b.SHA256[:]...)
	}
	return out
}

// Read reads the index of an artifact of that length. ErrIndex when it is none, when
// there is anything behind it, and when it is not written as Bytes does. The memory
// that it takes is bounded by len(raw).
func Read(raw []byte, length int64) (Index, error) {
	refuse := func(format string, args ...any) (Index, error) {
		return Index{}, fmt.Errorf("%w: %s", ErrIndex, fmt.Sprintf(format, args...))
	}
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	if !ok {
		return refuse("it does not begin as one")
	}
	var head [3]uint64
	for i := range head {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			return refuse("it is cut short")
		}
		head[i], rest = v, rest[n:]
	}
	switch {
	case length < 1 || head[0] != uint64(length):
		return refuse("it is of %d bytes, the artifact has %d", head[0], length)
	case head[1] > maxNormal || !valid(int(head[1])):
		return refuse("a normal size of %d", head[1])
	case head[2] < 1 || head[2] > uint64(len(rest)/(sha256.Size+1)):
		return refuse("%d blocks in %d bytes", head[2], len(rest))
	}
	x := Index{Length: length, Normal: int(head[1]), Blocks: make([]Block, head[2])}
	offset := int64(0)
	for i := range x.Blocks {
		v, n := binary.Uvarint(rest)
		if n <= 0 || len(rest)-n < sha256.Size {
			return refuse("it is cut short")
		}
		if v < 1 || v > MaxBlock || int64(v) > length-offset {
			return refuse("block %d has %d bytes", i, v)
		}
		x.Blocks[i] = Block{Offset: offset, Length: int(v), SHA256: [sha256.Size]byte(rest[n:])}
		offset += int64(v)
		rest = rest[n+sha256.Size:]
	}
	switch {
	case offset != length:
		return refuse("its blocks have %d bytes of %d", offset, length)
	case !bytes.Equal(x.Bytes(), raw):
		return refuse("it is not written as it should be")
	}
	return x, nil
}

// ReadAny is Read where nobody says how long the artifact is but the index itself.
func ReadAny(raw []byte) (Index, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	length, n := binary.Uvarint(rest)
	if !ok || n <= 0 || length > math.MaxInt64 {
		return Index{}, fmt.Errorf("%w: it does not begin as one", ErrIndex)
	}
	return Read(raw, int64(length))
}

// segment is about how much of an artifact a delta makes at once, in bytes: what has
// to be fetched again after an interruption, and what a device holds in memory.
const segment = 1 << 20

// Segments are the ends of the segments of deltas that make the artifact: each is the
// end of a block, some MiB apart, the last is Length. A segment has at most
// MaxSegment bytes.
func (x Index) Segments() []int64 {
	var ends []int64
	begin := int64(0)
	for i, b := range x.Blocks {
		if end := b.Offset + int64(b.Length); end-begin >= segment || i == len(x.Blocks)-1 {
			ends = append(ends, end)
			begin = end
		}
	}
	return ends
}

// MaxSegment is the largest segment in bytes.
const MaxSegment = segment + MaxBlock

// At is the number of the block that byte offset lies in.
func (x Index) At(offset int64) int {
	return sort.Search(len(x.Blocks), func(i int) bool { return x.Blocks[i].Offset > offset }) - 1
}

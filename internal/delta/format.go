package delta

import (
	"errors"
	"math"
)

// Refusals. All others are errors of the reader of the old image or of the context.
var (
	// ErrTruncated: fewer bytes than the head or a segment needs.
	ErrTruncated = errors.New("delta is truncated")
	// ErrCorrupt: what was read is no delta, or contradicts itself.
	ErrCorrupt = errors.New("delta is corrupt")
	// ErrTooLarge: a length beyond the bounds of this package.
	ErrTooLarge = errors.New("delta exceeds a bound")
	// ErrOffset: a range outside of the old or the new image.
	ErrOffset = errors.New("delta points outside of an image")
	// ErrVersion: a delta of a format that this program does not know.
	ErrVersion = errors.New("delta has an unknown format")
	// ErrSegment: there is no segment of that number.
	ErrSegment = errors.New("delta has no such segment")
)

// Bounds of the format. An encoder keeps them, a decoder refuses what exceeds them.
const (
	// MaxImage is the largest length of an image in bytes: offsets fit into 32 bits.
	MaxImage = math.MaxInt32
	// MaxSegment is the most that a segment may make, in bytes.
	MaxSegment = 4 << 20
	// MaxSegments is the largest number of segments.
	MaxSegments = 1 << 16
	// MaxHead is the largest head in bytes.
	MaxHead = 4 << 20
	// MaxCopies is the largest number of copies: 15 bytes of memory each at most, and
	// 16 to look addresses up.
	MaxCopies = 1 << 19
	// maxSpaces is the largest number of programs in the old image whose addresses
	// are looked up.
	maxSpaces = 1 << 12
	// segmentSlack is by how much a segment may be longer than what it makes.
	segmentSlack = 64

	defaultSegment = 1 << 20
)

const magic = "gsd"

// The versions of the format, in the byte behind magic: the second knows methodMarked, and
// is for deltas that have it.
const (
	version       = 1
	versionMarked = 2
)

// Coder is what codes the differences.
type Coder uint8

const (
	// Zstd costs a device little: memory of a segment, and no time worth speaking of.
	Zstd Coder = iota
	// Mixed is smaller, and takes a device about a second for 20 MB.
	Mixed
)

// String returns the coder's name.
func (c Coder) String() string {
	switch c {
	case Zstd:
		return "zstd"
	case Mixed:
		return "mixed"
	}
	return "unknown"
}

// Options say how to encode.
type Options struct {
	// Ends are the offsets in the new image where segments end, ascending, the last
	// its length. Absent: one each MiB.
	Ends []int64
	// Coder of the segments; zero is Zstd.
	Coder Coder
	// Workers is how many segments are encoded at once, if there is memory for them; zero:
	// one per processor. The result does not depend on it, unless memory is short.
	Workers int
	// Memory is how many bytes encoding may take besides the images: with less, less of a
	// large old image is sorted, and the delta is longer. Zero: as many as it needs.
	Memory int64
}

// Segment is a part of the delta that can be decoded by itself.
type Segment struct {
	Offset, Length int64 // where its bytes are in the delta
	Start, Size    int64 // which bytes of the new image they make
}

// Head is what must be known before segments can be decoded.
type Head struct {
	OldLength, NewLength int64
	Coder                Coder
	Segments             []Segment
	// Length of the head itself: where the segments begin in the delta.
	Length int64

	marked bool // a segment is coded by methodMarked
	copies packedCopies
	spaces []space // programs in the old image, ascending
}

// copied is a range of the new image that resembles one of the old image.
type copied struct {
	at, from, size int32 // offset in the new image, in the old image, bytes
}

func (c copied) end() int32 { return c.at + c.size }

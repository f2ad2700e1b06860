package expand

import (
	"errors"
	"fmt"
	"sort"

	"groundswell/internal/deflate"
	"groundswell/internal/delta"
)

// Refusals, besides those of package delta for what is inside.
var (
	// ErrTruncated: fewer bytes than the head or a unit needs.
	ErrTruncated = errors.New("expanded delta is truncated")
	// ErrCorrupt: what was read is no delta of this kind, or contradicts itself, or the
	// old image is another one.
	ErrCorrupt = errors.New("expanded delta is corrupt")
	// ErrTooLarge: a length beyond the bounds of this package.
	ErrTooLarge = errors.New("expanded delta exceeds a bound")
	// ErrOffset: a stream outside of its image.
	ErrOffset = errors.New("expanded delta points outside of an image")
	// ErrVersion: a format, or a way to make streams, that this program does not know.
	ErrVersion = errors.New("expanded delta has an unknown format")
	// ErrWork: it would have the device inflate what it has too often.
	ErrWork = errors.New("expanded delta takes too much work")
	// ErrUnit: there is no unit of that number.
	ErrUnit = errors.New("expanded delta has no such unit")
	// ErrSum: the bytes of a unit are not those that the delta has there.
	ErrSum = errors.New("wrong bytes of an expanded delta")
)

// Bounds of the format. An encoder keeps them, a decoder refuses what exceeds them.
const (
	// MaxStreams is the largest number of streams of an image: 40 bytes of memory each.
	MaxStreams = 1 << 16
	// MaxHead is the largest head in bytes.
	MaxHead = maxRecipe + delta.MaxHead + 64
	// LeastStream is the least that may stand for a stream in the expanded image, in bytes:
	// what a smaller one could save is less than what it takes to say where it is.
	LeastStream = 256
	// MaxUnit is the most bytes that a unit may have.
	MaxUnit = 4 << 20
	// maxRecipe is the largest list of streams and units in bytes, and maxRecipeSize
	// the same uncompressed.
	maxRecipe     = 1 << 20
	maxRecipeSize = 4 << 20
	// small is the size of content in bytes up to which a stream of the old image is
	// inflated when it is read, and not kept in the scratch.
	small = 1 << 20
	// leastWork is what reading a stream's parsed form costs at least, as if so many bytes
	// were inflated: its first block is decoded whole, however short the form is.
	leastWork = 4 << 10
	// leastParsedWork is the same of a deflate stream: tables are cleared, and what was chosen
	// of a group is foretold.
	leastParsedWork = 64 << 10
	// maxInflated is how many times the content of all small streams of the old image a
	// decoder inflates, and maxInflatedMore how many bytes more.
	maxInflated     = 16
	maxInflatedMore = 64 << 20
	// maxAhead is by how many bytes a unit may make more than its own.
	maxAhead = 1 << 20
)

// magic begins a delta of this kind; the byte behind it is the format's version. A delta of
// deflate streams alone, whose content stands in the expanded images, has the first one; one
// with deflate streams whose parsed form stands there has the last.
const (
	magic          = "gsx"
	versionDeflate = 1
	versionCodecs  = 2
	versionParsed  = 3
)

// Stream is a compressed stream in an image.
type Stream struct {
	At     int64 // where it begins in the image
	Length int64 // bytes there
	Size   int64 // of its content, or its parsed form: of what stands for it in the expanded image
	Codec  Codec
	// Way is how a deflate stream is made again; of an old image's streams the zero one, as
	// these need not be.
	Way deflate.Way
	// Effort is by which a deflate stream that stands parsed was taken apart: one of
	// deflateparse.Efforts.
	Effort uint8

	start int64 // of that in the expanded image
}

// Unit is what makes a segment of the new image.
type Unit struct {
	Offset, Length int64  // where its bytes are in the delta
	Start, Size    int64  // which bytes of the new image they make
	Sum            uint32 // CRC-32C of its bytes

	to         int64 // end in the expanded image; it begins where the last one ends
	first, end int   // segments of the inner delta
}

// Head is what must be known before units can be decoded.
type Head struct {
	OldLength, NewLength int64
	Old, New             []Stream
	Units                []Unit
	// Length of the head itself.
	Length int64
	// Inner is the head of the delta between the expanded images.
	Inner *delta.Head
}

// Scratch is how many bytes of a file a decoder needs: for the content of the old image's
// large streams, and for that of the new one's stream that is at work, if it takes any.
func (h *Head) Scratch() int64 { return h.oldRoom() + h.newRoom() }

func (h *Head) oldRoom() int64 {
	n := int64(0)
	for _, s := range h.Old {
		if s.Size > small {
			n += s.Size
		}
	}
	return n
}

func (h *Head) newRoom() int64 {
	n := int64(0)
	for _, s := range h.New {
		n = max(n, s.Room())
	}
	return n
}

// place numbers the streams' contents in the expanded image, and returns how long that
// is. ErrOffset unless they lie in an image of that length, one behind the other, ErrCorrupt if
// one is too small to be listed.
func place(streams []Stream, length int64) (int64, error) {
	end, grown := int64(0), int64(0)
	for i := range streams {
		s := &streams[i]
		if s.At < end || s.Length < 1 || s.Length > length-s.At {
			return 0, ErrOffset
		}
		if s.Size < LeastStream {
			return 0, fmt.Errorf("%w: a stream of %d bytes", ErrCorrupt, s.Size)
		}
		s.start = s.At + grown
		end = s.At + s.Length
		if grown += s.Size - s.Length; end+grown > delta.MaxImage {
			return 0, ErrTooLarge
		}
	}
	return length + grown, nil
}

// streamAt is the number of streams that begin at or before a place of the expanded image.
func streamAt(streams []Stream, at int64) int {
	return sort.Search(len(streams), func(i int) bool { return streams[i].start > at })
}

// restart is from where the new image can be made again, to have its bytes from unit n's
// first on: a place in the expanded image, and which in the image that is.
func (h *Head) restart(n int) (expanded, at int64) {
	begin := h.Units[n].Start
	k := sort.Search(len(h.New), func(i int) bool { return h.New[i].At >= begin })
	if k == 0 {
		return begin, begin
	}
	if s := h.New[k-1]; s.At+s.Length > begin {
		return s.start, s.At
	}
	s := h.New[k-1]
	return begin - (s.At + s.Length) + s.start + s.Size, begin
}

// Since is the first of the units whose bytes are needed to make what unit n makes,
// without what was made before.
func (h *Head) Since(n int) int {
	from, _ := h.restart(n)
	return min(n, sort.Search(len(h.Units), func(i int) bool { return h.Units[i].to > from }))
}

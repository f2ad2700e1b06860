package deflateparse

import (
	"encoding/binary"
	"errors"

	"groundswell/internal/deflate/codes"
)

// Refusals.
var (
	// ErrTruncated is a stream or a form that ends early.
	ErrTruncated = errors.New("deflate stream or its parsed form is truncated")
	// ErrCorrupt is a stream against RFC 1951, or a form that is of no stream.
	ErrCorrupt = errors.New("deflate stream or its parsed form is corrupt")
	// ErrTooLarge is a stream whose form is longer than MaxForm.
	ErrTooLarge = errors.New("parsed form of a deflate stream is too large")
	// ErrTooFar is a match that begins before the stream does.
	ErrTooFar = errors.New("deflate match is too far back")
)

// MaxForm is the longest parsed form, in bytes.
const MaxForm = 1<<31 - 1

const (
	window     = 32 << 10 // of content, for matches
	minMatch   = 3
	maxMatch   = 258
	maxContent = 32 << 10 // of a group
)

// Kinds of groups: what they begin with (RFC 1951, 3.2.3).
const (
	stored uint8 = iota
	fixed
	dynamic
	goesOn // nothing: the block of the group before
)

const (
	headLength   = 8 // of a group
	recordLength = 4
	lengthLength = 2 // of a stored block
	maxHeader    = 3 + codes.MostSent + literalCodes + distanceCodes
	maxRecords   = maxContent/minMatch + maxContent/maxRun
)

// head is what the form says of a group before anything else.
type head struct {
	kind     uint8
	final    bool  // its block is the stream's last one
	ends     bool  // the block ends with it
	padding  uint8 // bits that fill a byte: before what is stored, behind the last block
	header   int   // bytes: of a dynamic block's, or of the length of a stored one
	content  int
	records  int
	effort   uint8 // of the stream
	foretold bool  // its records are corrections
}

func (h *head) put(b []byte) {
	b[0] = h.kind
	if h.final {
		b[0] |= 4
	}
	if h.ends {
		b[0] |= 8
	}
	b[0] |= h.effort << 4
	b[1] = h.padding
	if h.foretold {
		b[1] |= 1 << 7
	}
	binary.LittleEndian.PutUint16(b[2:], uint16(h.header))
	binary.LittleEndian.PutUint16(b[4:], uint16(h.content))
	binary.LittleEndian.PutUint16(b[6:], uint16(h.records))
}

// parse reads headLength bytes and reports whether a group may be like that.
func (h *head) parse(b []byte) bool {
	*h = head{
		kind: b[0] & 3, final: b[0]&4 != 0, ends: b[0]&8 != 0, padding: b[1] & (1<<7 - 1),
		header: int(binary.LittleEndian.Uint16(b[2:])), content: int(binary.LittleEndian.Uint16(b[4:])), records: int(binary.LittleEndian.Uint16(b[6:])),
		effort: b[0] >> 4, foretold: b[1]>>7 != 0,
	}
	switch {
	case int(h.effort) >= Efforts, h.content > maxContent, h.records > maxRecords, h.foretold && h.effort == 0:
		return false
	case h.kind == stored:
		return h.header == lengthLength && h.records == 0 && !h.foretold
	case h.kind == dynamic:
		if h.header == 0 || h.header > maxHeader {
			return false
		}
	case h.header != 0:
		return false
	}
	return h.padding == 0 || h.final && h.ends
}

// maxRun is how many literals a record counts at most.
const maxRun = 255

// record is a part of a parse: literals, and the match that follows them.
type record struct {
	run      int // literals
	length   int // of the match; 0: there is none
	distance int
	long     bool // the longest length, by the code of shorter ones
}

// Of the number for the distance.
const alone = 1 << 15 // no match, or a length of maxMatch that has no code of its own

func (r record) put(b []byte) {
	length, distance := r.length-minMatch, r.distance-1
	switch {
	case r.length == 0:
		length, distance = 0, alone
	case r.long:
		distance |= alone
	}
	b[0], b[1] = byte(r.run), byte(length)
	binary.LittleEndian.PutUint16(b[2:], uint16(distance))
}

// readRecord reports whether there is such a record.
func readRecord(b []byte) (record, bool) {
	r := record{run: int(b[0]), length: int(b[1]) + minMatch, distance: int(binary.LittleEndian.Uint16(b[2:]))}
	if r.distance < alone {
		r.distance++
		return r, true
	}
	r.distance -= alone
	if r.length == maxMatch {
		r.long = true
		r.distance++
		return r, true
	}
	ok := r.length == minMatch && r.distance == 0 && r.run == maxRun
	return record{run: r.run}, ok
}

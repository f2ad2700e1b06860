package lzmaparse

import (
	"encoding/binary"
	"errors"
)

// Refusals.
var (
	// ErrTruncated: the stream, or the parsed form, ends too early.
	ErrTruncated = errors.New("truncated LZMA stream")
	// ErrCorrupt: it contradicts itself.
	ErrCorrupt = errors.New("corrupt LZMA stream")
	// ErrTooLarge: a part of it exceeds a bound of this package.
	ErrTooLarge = errors.New("LZMA stream exceeds a bound")
	// ErrTooFar: a match farther back than what is in memory, and nobody keeps the rest.
	ErrTooFar = errors.New("LZMA match too far back")
)

// Kind is how a stream is framed.
type Kind uint8

const (
	// LZMA2 is a sequence of chunks and a zero byte, as it stands in a block of an xz file.
	LZMA2 Kind = iota
	// LZMA is the head of a .lzma file, of 13 bytes, and what is behind it.
	LZMA
)

// Window is how many bytes of content a reader and a writer keep in memory. Streams of no
// more content need no room elsewhere.
const Window = 256 << 10

// What is read back is more than a group and what a caller has at hand of it, 64 KiB at most,
// before the end: it was kept.
const _ = uint(Window - maxContent - len(kept{}.room) - 64<<10)

// Bounds of a group, in bytes. A group ends behind the packet that reaches one of the
// first two.
const (
	groupContent = 128 << 10
	groupParse   = 256 << 10
	maxContent   = groupContent + maxLength
	maxParse     = groupParse + 2*maxRecord
	// maxGroups is how many groups a stream may have: 16 bytes of memory each.
	maxGroups = 1 << 16
)

// What a chunk of LZMA2 may have at most.
const (
	maxChunkContent = 2 << 20
	maxChunk        = 64 << 10
)

// begin says what a group begins with.
type begin uint8

const (
	beginNone     begin = iota // nothing: the chunk goes on
	beginStored                // a chunk that is not compressed, without or with a
	beginStoredIn              // reset of the dictionary
	_
	beginChunk           // a compressed chunk
	beginState           // with a reset of the state
	beginProperties      // and with new properties
	beginDictionary      // and of the dictionary
	beginAlone           // an LZMA stream: its head takes the place of the content
	beginEnd             // the end marker of one
	beginLast       = 16 // set as well if the chunk ends with this group
)

// groupHead is the length of a group's head in bytes.
const groupHead = 12

// group is a part of a stream: its parse, and then its content.
type group struct {
	begin      begin
	last       bool
	properties byte
	parse      int // bytes
	content    int // bytes
}

func (g group) append(dst []byte) []byte {
	b := byte(g.begin)
	if g.last {
		b |= beginLast
	}
	dst = append(dst, b, g.properties, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(g.content))
	return binary.LittleEndian.AppendUint32(dst, uint32(g.parse))
}

func readGroup(b []byte) (group, error) {
	content, parse := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	if content > maxContent || parse > maxParse {
		return group{}, ErrTooLarge
	}
	g := group{begin: begin(b[0] &^ beginLast), last: b[0]&beginLast != 0, properties: b[1], content: int(content), parse: int(parse)}
	if b[2] != 0 || b[3] != 0 || g.begin == 3 || g.begin > beginEnd {
		return group{}, ErrCorrupt
	}
	return g, nil
}

// choice is what a packet is, besides a literal. Of a repeated one the distance is known:
// it is that of the last match with another distance, or the one before it, and so on.
type choice uint8

const (
	match choice = iota
	repeat0
	repeat1
	repeat2
	repeat3
	nothing // no match: the record only counts literals
)

const (
	minLength = 2 // of a match; of one at the last distance it is 1
	maxLength = 273
	// maxRecord is the length of the longest record of a parse.
	maxRecord = 7
	maxRun    = 255
)

// record is a part of a parse: literals, and what follows them.
type record struct {
	run      int // literals
	choice   choice
	length   int
	distance uint32 // of a match: 0 is the last byte
}

func (r record) append(dst []byte) []byte {
	dst = append(dst, byte(r.run), byte(r.choice)<<1|byte(r.length>>8), byte(r.length))
	if r.choice == match {
		// The highest byte first: what lies far apart differs in it alone.
		dst = binary.BigEndian.AppendUint32(dst, r.distance)
	}
	return dst
}

// readRecord reads the record that b begins with, and says how long it is.
func readRecord(b []byte) (r record, n int, err error) {
	if len(b) < 3 {
		return r, 0, ErrCorrupt
	}
	r = record{run: int(b[0]), choice: choice(b[1] >> 1), length: int(b[1]&1)<<8 | int(b[2])}
	switch {
	case r.choice > nothing, r.length > maxLength:
		return r, 0, ErrCorrupt
	case r.choice == nothing:
		if r.length != 0 {
			return r, 0, ErrCorrupt
		}
		return r, 3, nil
	case r.length < minLength && (r.choice != repeat0 || r.length == 0):
		return r, 0, ErrCorrupt
	case r.choice != match:
		return r, 3, nil
	case len(b) < maxRecord:
		return r, 0, ErrCorrupt
	}
	r.distance = binary.BigEndian.Uint32(b[3:])
	return r, maxRecord, nil
}

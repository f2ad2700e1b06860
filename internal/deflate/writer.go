package deflate

import "fmt"

// Maker is a program whose streams are made.
type Maker uint8

const (
	Zlib Maker = iota // zlib, with a window of 32 KiB and its default strategy
	Gzip              // GNU gzip
)

// Way is how a stream is made. What zlib makes of the same content differs by its level
// and by its memory level; GNU gzip has no memory levels.
type Way struct {
	Maker    Maker
	Level    uint8 // 1 to 9
	MemLevel uint8 // of zlib, 1 to 9: 8 unless the caller of zlib chose another one; of gzip 0
}

// Valid says whether there is such a way.
func (w Way) Valid() bool {
	switch {
	case w.Level < 1 || w.Level > 9:
		return false
	case w.Maker == Gzip:
		return w.MemLevel == 0
	}
	return w.Maker == Zlib && w.MemLevel >= 1 && w.MemLevel <= 9
}

const (
	minMatch     = 3
	maxMatch     = 258
	minLookahead = maxMatch + minMatch + 1
	windowBits   = 15
	windowSize   = 1 << windowBits
	windowMask   = windowSize - 1
	maxDistance  = windowSize - minLookahead
	// tooFar is the distance from which a match of three bytes is not worth its code.
	tooFar = 4096
)

// effort is what a level stands for.
type effort struct {
	good  int // a match of that length makes the search for a better one shorter
	lazy  int // a match of that length is taken without a look at the next byte; in levels that never look: up to which length all of a match is noted
	nice  int // a match of that length ends the search
	chain int // how many earlier places are looked at
}

// firstLazy is the first level that looks at the next byte before it takes a match.
const firstLazy = 4

var efforts = [...]effort{
	1: {4, 4, 8, 4}, 2: {4, 5, 16, 8}, 3: {4, 6, 32, 32},
	4: {4, 4, 16, 16}, 5: {8, 16, 32, 32}, 6: {8, 16, 128, 128}, 7: {8, 32, 128, 256}, 8: {32, 128, 258, 1024}, 9: {32, 258, 258, 4096},
}

// Writer makes one stream after the other.
type Writer struct {
	way Way
	effort
	blocks blockWriter

	window    [2 * windowSize]byte
	start     int // of what is to be looked at
	lookahead int // bytes from there on
	block     int // where the block begins; negative when that has left the window

	head      []uint16 // by hash: the last place, 0 if none
	previous  [windowSize]uint16
	hash      uint32
	hashShift uint32
	hashMask  uint32

	matchStart, matchLength int
	previousMatch           int
	previousLength          int
	available               bool // the byte before start is not written yet
}

// Reset makes w begin a new stream.
func (w *Writer) Reset(way Way) error {
	if !way.Valid() {
		return fmt.Errorf("deflate: no way to make a stream: %+v", way)
	}
	w.way, w.effort = way, efforts[way.Level]
	bits, symbols := uint32(15), 1<<15
	if way.Maker == Zlib {
		bits, symbols = uint32(way.MemLevel)+7, 1<<(way.MemLevel+6)
	}
	w.hashShift, w.hashMask = (bits+minMatch-1)/minMatch, 1<<bits-1
	if len(w.head) < 1<<bits {
		w.head = make([]uint16, 1<<bits)
	}
	clear(w.head)
	if way.Maker == Gzip {
		clear(w.window[:]) // it looks at what is behind the end
	}
	w.start, w.lookahead, w.block, w.hash = 0, 0, 0, 0
	w.matchStart, w.matchLength, w.previousMatch, w.previousLength = 0, minMatch-1, 0, minMatch-1
	if w.available = false; !w.lazily() {
		w.matchLength = 0
	}
	w.blocks.reset(symbols, way.Maker == Gzip && way.Level > 2)
	return nil
}

func (w *Writer) lazily() bool { return w.way.Level >= firstLazy }

// Write adds content, and appends to dst what of the stream comes out by it. A Reset
// must have been before.
func (w *Writer) Write(dst, content []byte) []byte {
	w.blocks.out = dst
	for len(content) > 0 {
		n := w.fill(content)
		content = content[n:]
		if w.start+w.lookahead < len(w.window) {
			break // zlib looks at a full window, and so must this
		}
		w.compress(minLookahead)
	}
	dst, w.blocks.out = w.blocks.out, nil
	return dst
}

// Finish ends the stream, and appends the rest of it to dst.
func (w *Writer) Finish(dst []byte) []byte {
	w.blocks.out = dst
	w.compress(minLookahead)
	if w.way.Maker == Gzip {
		w.slide()
		end := w.start + w.lookahead
		clear(w.window[end:min(end+minMatch-1, len(w.window))])
	}
	w.compress(1)
	if w.available {
		w.blocks.literal(w.window[w.start-1], w.start-w.block)
		w.available = false
	}
	w.flush(true)
	dst, w.blocks.out = w.blocks.out, nil
	return dst
}

// slide makes room in the window when what is to be looked at has come to its end.
func (w *Writer) slide() {
	if w.start < windowSize+maxDistance {
		return
	}
	copy(w.window[:windowSize], w.window[windowSize:])
	w.matchStart -= windowSize
	w.start -= windowSize
	w.block -= windowSize
	lower(w.head[:w.hashMask+1])
	lower(w.previous[:])
}

func lower(places []uint16) {
	for i, at := range places {
		places[i] = at - min(at, windowSize)
	}
}

// fill puts content into the window: as much as fits.
func (w *Writer) fill(content []byte) int {
	if w.lookahead < minLookahead {
		w.slide()
	}
	before := w.lookahead
	n := copy(w.window[w.start+w.lookahead:], content)
	w.lookahead += n
	if before < minMatch && w.lookahead >= minMatch {
		w.hash = uint32(w.window[w.start])
		w.rotate(w.window[w.start+1])
	}
	return n
}

// flush writes a block.
func (w *Writer) flush(last bool) {
	var content []byte
	if w.block >= 0 {
		content = w.window[w.block:w.start]
	}
	w.blocks.flush(content, w.start-w.block, last)
	w.block = w.start
}

package deflate

import "groundswell/internal/prefix"

// rotate adds a byte to the hash of three.
func (w *Writer) rotate(b byte) { w.hash = (w.hash<<w.hashShift ^ uint32(b)) & w.hashMask }

// insert notes the place at, and returns the last one with the same hash; 0: none.
func (w *Writer) insert(at int) int {
	w.rotate(w.window[at+minMatch-1])
	last := w.head[w.hash]
	w.previous[at&windowMask] = last
	w.head[w.hash] = uint16(at)
	return int(last)
}

// compress works until fewer bytes than least are left to be looked at.
func (w *Writer) compress(least int) {
	for w.lookahead >= least {
		if w.lookahead < minLookahead && w.way.Maker == Zlib {
			w.slide() // zlib looks for more again and again
		}
		if w.lazily() {
			w.compressLazily()
		} else {
			w.compressFast()
		}
	}
}

// hashed is whether the place at start is noted: gzip notes even those that have no three
// bytes.
func (w *Writer) hashed(lookahead int) bool {
	return lookahead >= minMatch || w.way.Maker == Gzip && w.start+minMatch-1 < len(w.window)
}

// near is whether a match may be looked for at a place.
func (w *Writer) near(place int) bool {
	return place != 0 && w.start-place <= maxDistance &&
		(w.way.Maker != Gzip || w.start <= len(w.window)-minLookahead)
}

func (w *Writer) compressFast() {
	place := 0
	if w.hashed(w.lookahead) {
		place = w.insert(w.start)
	}
	if w.near(place) {
		w.matchLength = w.longest(place)
	}
	full := false
	if w.matchLength >= minMatch {
		full = w.blocks.match(w.start-w.matchStart, w.matchLength, w.start-w.block)
		w.lookahead -= w.matchLength
		if w.matchLength <= w.lazy && w.hashed(w.lookahead) {
			for w.matchLength--; w.matchLength > 0; w.matchLength-- {
				w.start++
				w.insert(w.start)
			}
			w.start++
		} else {
			w.start += w.matchLength
			w.matchLength = 0
			w.hash = uint32(w.window[w.start])
			w.rotate(w.window[w.start+1])
		}
	} else {
		full = w.blocks.literal(w.window[w.start], w.start-w.block)
		w.lookahead--
		w.start++
	}
	if full {
		w.flush(false)
	}
}

func (w *Writer) compressLazily() {
	place := 0
	if w.hashed(w.lookahead) {
		place = w.insert(w.start)
	}
	w.previousLength, w.previousMatch = w.matchLength, w.matchStart
	w.matchLength = minMatch - 1
	if w.previousLength < w.lazy && w.near(place) {
		w.matchLength = w.longest(place)
		if w.matchLength == minMatch && w.start-w.matchStart > tooFar {
			w.matchLength = minMatch - 1
		}
	}
	switch {
	case w.previousLength >= minMatch && w.matchLength <= w.previousLength:
		w.takePrevious()
	case w.available:
		if w.blocks.literal(w.window[w.start-1], w.start-w.block) {
			w.flush(false)
		}
		w.start++
		w.lookahead--
	default:
		w.available = true
		w.start++
		w.lookahead--
	}
}

// takePrevious takes the match that began a byte before start.
func (w *Writer) takePrevious() {
	last := w.start + w.lookahead - minMatch // to be noted
	if w.way.Maker == Gzip {
		last = len(w.window) - minMatch
	}
	full := w.blocks.match(w.start-1-w.previousMatch, w.previousLength, w.start-w.block)
	w.lookahead -= w.previousLength - 1
	for n := w.previousLength - 2; n > 0; n-- {
		if w.start++; w.start <= last {
			w.insert(w.start)
		}
	}
	w.available = false
	w.matchLength = minMatch - 1
	w.start++
	if full {
		w.flush(false)
	}
}

// longest looks for a match that is longer than the previous one, at a place and those
// before it, sets matchStart if there is one, and returns its length.
func (w *Writer) longest(place int) int {
	best, chain, nice := w.previousLength, w.chain, w.nice
	if best >= w.good {
		chain >>= 2
	}
	if w.way.Maker != Gzip {
		nice = min(nice, w.lookahead)
	}
	limit := max(w.start-maxDistance, 0)
	scan := w.window[w.start:min(w.start+maxMatch, len(w.window))]
	if best >= len(scan) {
		return min(best, w.lookahead)
	}
	// A better match must go on where the best one ends, so that is looked at first. By
	// types whose numbers are all inside the arrays, which spares checks.
	window, previous := &w.window, &w.previous
	last, behind := scan[best-1], scan[best]
	for {
		if at := uint16(place + best); window[at] == behind && window[at-1] == last {
			if n := prefix.Common(window[place:place+len(scan)], scan); n > best {
				w.matchStart, best = place, n
				if n >= nice || n == len(scan) {
					break
				}
				last, behind = scan[best-1], scan[best]
			}
		}
		place = int(previous[place&windowMask])
		if chain--; place <= limit || chain == 0 {
			break
		}
	}
	return min(best, w.lookahead)
}

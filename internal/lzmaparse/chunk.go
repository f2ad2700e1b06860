package lzmaparse

import (
	"fmt"
	"slices"
)

// enter begins the chunk that a group begins.
func (w *Writer) enter(g group) error {
	bad := func(what string) error { return fmt.Errorf("%w: parsed form: %s", ErrCorrupt, what) }
	switch {
	case g.begin == beginNone || g.begin == beginEnd:
		if !w.inside || g.properties != 0 || g.begin == beginEnd && (w.kind != LZMA || !g.last || g.parse+g.content != 0) {
			return bad("a group of no chunk")
		}
		return nil
	case w.inside:
		return bad("a chunk within one")
	case (g.begin == beginAlone) != (w.kind == LZMA), w.ended:
		return bad("a chunk of another kind")
	case g.properties != 0 && g.begin < beginProperties:
		return bad("properties")
	}
	w.inside, w.open, w.size, w.chunk = true, g.begin, 0, w.chunk[:0]
	switch g.begin {
	case beginAlone:
		if g.parse != headAlone || g.content != 0 {
			return bad("the head of an LZMA stream")
		}
		if err := w.model.properties(w.parse[0]); err != nil {
			return err
		}
	case beginStored, beginStoredIn:
		if g.parse != 0 || g.content == 0 || !g.last {
			return bad("a stored chunk")
		}
	default:
		if g.begin >= beginProperties {
			if err := w.model.properties(g.properties); err != nil {
				return err
			}
		}
	}
	if g.begin == beginStoredIn || g.begin >= beginDictionary {
		w.window.from = w.window.at
	}
	if g.begin >= beginState {
		w.model.reset()
	}
	if w.window.from < 0 || g.begin >= beginChunk && len(w.model.literals) == 0 {
		return bad("no dictionary, or no state")
	}
	if g.begin >= beginChunk {
		w.coder.encode(w.coder.out[:0])
	}
	return nil
}

// emit appends a chunk of LZMA2.
func (w *Writer) emit(dst []byte) ([]byte, error) {
	if w.open < beginChunk {
		n := len(w.chunk) - 1
		control := byte(2)
		if w.open == beginStoredIn {
			control = 1
		}
		if n >= maxChunk {
			return dst, fmt.Errorf("%w: a stored chunk", ErrTooLarge)
		}
		dst = append(dst, control, byte(n>>8), byte(n))
		return append(dst, w.chunk...), nil
	}
	n, k := w.size-1, len(w.coder.out)-1
	if n < 0 || k >= maxChunk || n >= maxChunkContent {
		return dst, fmt.Errorf("%w: a chunk", ErrTooLarge)
	}
	dst = slices.Grow(dst, k+8)
	dst = append(dst, 0x80|byte(w.open-beginChunk)<<5|byte(n>>16), byte(n>>8), byte(n), byte(k>>8), byte(k))
	if w.open >= beginProperties {
		dst = append(dst, w.model.code())
	}
	return w.drain(dst), nil
}

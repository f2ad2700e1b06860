package lzmaparse

import (
	"fmt"
	"io"
)

// Scratch keeps content that is too far back for the memory of a Writer.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
}

// Writer puts one stream after the other together. It has some 0.7 MB of memory. It is for
// one goroutine.
type Writer struct {
	kind   Kind
	back   Scratch
	kept   int64 // content that back has
	coder  coder
	model  model
	window window
	past   kept

	head    []byte // of the group
	group   group
	parse   []byte // that the group has, as far as it came
	at      int    // of the parse
	current record // of it: the literals that are still to come
	content int    // of the group that is still to come
	skip    int    // of that: within a match
	chunk   []byte // what the chunk makes, of LZMA2
	size    int    // of the chunk's content
	open    begin  // what the chunk began with
	inside  bool   // a chunk
	begun   bool
	ended   bool
}

// Reset makes w begin with a new stream of that kind. back keeps its content, if that is
// more than Window; nil if nobody does.
func (w *Writer) Reset(kind Kind, back Scratch) {
	w.kind, w.back, w.kept = kind, back, 0
	w.model.lc, w.model.lp, w.model.pb = 0, 0, 0
	w.model.literals = w.model.literals[:0]
	w.window.reset()
	w.past.reset()
	w.window.from = -1
	w.head, w.group, w.parse, w.at, w.current = w.head[:0], group{}, w.parse[:0], 0, record{choice: nothing}
	w.content, w.skip, w.chunk, w.size = 0, 0, w.chunk[:0], 0
	w.inside, w.begun, w.ended = false, false, false
}

// Write adds some of the parsed form, and appends to dst what of the stream comes out by
// it: LZMA2 chunk by chunk. Its errors are those of this package, and those of the scratch.
func (w *Writer) Write(dst, form []byte) ([]byte, error) {
	var err error
	for len(form) > 0 && err == nil {
		if w.coder.pending > maxChunk { // no compressor's stream has such a run
			return dst, fmt.Errorf("%w: a carry", ErrTooLarge)
		}
		switch {
		case len(w.head) < groupHead:
			n := min(groupHead-len(w.head), len(form))
			w.head = append(w.head, form[:n]...)
			if form = form[n:]; len(w.head) < groupHead {
				break
			}
			if w.group, err = readGroup(w.head); err == nil {
				w.parse, w.at, w.content = w.parse[:0], 0, w.group.content
				if w.group.parse == 0 {
					dst, err = w.start(dst)
				}
			}
		case len(w.parse) < w.group.parse:
			n := min(w.group.parse-len(w.parse), len(form))
			w.parse = append(w.parse, form[:n]...)
			if form = form[n:]; len(w.parse) == w.group.parse {
				dst, err = w.start(dst)
			}
		default:
			n := min(w.content, len(form), Window/4)
			err = w.take(form[:n])
			form = form[n:]
			if err == nil && w.content == 0 {
				dst, err = w.finish(dst)
			}
		}
		if err == nil && w.kind == LZMA {
			dst = w.drain(dst)
		}
	}
	return dst, err
}

// Finish ends the stream. ErrTruncated: the parsed form was not all there.
func (w *Writer) Finish(dst []byte) ([]byte, error) {
	if w.kind == LZMA && !w.begun || w.inside || len(w.head) > 0 { // LZMA2 of no content is a zero byte alone
		return dst, fmt.Errorf("%w: its parsed form", ErrTruncated)
	}
	if w.kind == LZMA2 {
		dst = append(dst, 0)
	}
	return dst, nil
}

// drain takes what the coder has put out.
func (w *Writer) drain(dst []byte) []byte {
	dst = append(dst, w.coder.out...)
	w.coder.out = w.coder.out[:0]
	return dst
}

// start begins a group, whose parse is there.
func (w *Writer) start(dst []byte) ([]byte, error) {
	g := w.group
	if err := w.enter(g); err != nil {
		return dst, err
	}
	w.begun = true
	switch g.begin {
	case beginAlone:
		dst = append(dst, w.parse...)
		w.at = len(w.parse)
	case beginEnd:
		position := uint32(w.window.at - w.window.from)
		w.model.isLiteral(&w.coder, position, false)
		w.model.match(&w.coder, position, record{choice: match, length: minLength, distance: endDistance})
	case beginStored, beginStoredIn:
	default:
		if err := w.advance(); err != nil {
			return dst, err
		}
	}
	if w.content == 0 {
		return w.finish(dst)
	}
	return dst, nil
}

// advance goes on in the parse, to what needs content.
func (w *Writer) advance() error {
	for w.current.run == 0 && w.skip == 0 {
		if r := w.current; r.choice != nothing {
			position := uint32(w.window.at - w.window.from)
			w.model.isLiteral(&w.coder, position, false)
			w.model.match(&w.coder, position, r)
			w.skip, w.current.choice = r.length, nothing
			continue
		}
		if w.at == len(w.parse) {
			return nil
		}
		r, n, err := readRecord(w.parse[w.at:])
		if err != nil {
			return err
		}
		w.current, w.at = r, w.at+n
	}
	return nil
}

// take adds content.
func (w *Writer) take(p []byte) error {
	if err := w.keep(len(p)); err != nil {
		return err
	}
	w.content -= len(p)
	if w.open == beginStored || w.open == beginStoredIn {
		w.chunk = append(w.chunk, p...)
		w.window.add(p)
		return nil
	}
	w.size += len(p)
	for len(p) > 0 {
		switch {
		case w.skip > 0:
			n := min(w.skip, len(p))
			w.window.add(p[:n])
			p, w.skip = p[n:], w.skip-n
		case w.current.run > 0:
			if err := w.literal(p[0]); err != nil {
				return err
			}
			p, w.current.run = p[1:], w.current.run-1
		default:
			return fmt.Errorf("%w: more content than parse", ErrCorrupt)
		}
		if w.skip == 0 && w.current.run == 0 {
			if err := w.advance(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) literal(b byte) error {
	m, v := &w.model, &w.window
	position := uint32(v.at - v.from)
	m.isLiteral(&w.coder, position, true)
	matched := byte(0)
	if !m.plain() {
		var err error
		if matched, err = w.byteAt(m.distances[0]); err != nil {
			return err
		}
	}
	m.literal(&w.coder, position, v.last(), matched, b)
	v.put(b)
	return nil
}

func (w *Writer) byteAt(distance uint32) (byte, error) {
	v := &w.window
	switch {
	case !v.reaches(distance):
		return 0, fmt.Errorf("%w: a match before the beginning", ErrCorrupt)
	case v.has(distance):
		return v.byte(distance), nil
	case w.back == nil:
		return 0, ErrTooFar
	}
	at := v.at - 1 - int64(distance)
	b, err := w.past.read(w.back, at, at, w.kept-at, 1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// keep makes room in the window for n bytes: what they would overwrite is put into the
// scratch.
func (w *Writer) keep(n int) error {
	v := &w.window
	if w.back == nil || v.at+int64(n)-w.kept <= Window {
		return nil
	}
	const part = Window / 2 // so it does not wrap around
	if _, err := w.back.WriteAt(v.ring[w.kept&(Window-1):][:part], w.kept); err != nil {
		return fmt.Errorf("keep content: %w", err)
	}
	w.kept += part
	return nil
}

// finish ends a group, of which all is there.
func (w *Writer) finish(dst []byte) ([]byte, error) {
	if w.at != len(w.parse) || w.skip > 0 || w.current.run > 0 || w.current.choice != nothing {
		return dst, fmt.Errorf("%w: more parse than content", ErrCorrupt)
	}
	w.head = w.head[:0]
	if w.kind == LZMA2 && (len(w.coder.out)+w.coder.pending > maxChunk+coderHead || w.size > maxChunkContent) {
		return dst, fmt.Errorf("%w: a chunk", ErrTooLarge)
	}
	if !w.group.last {
		return dst, nil
	}
	w.inside = false
	if w.open >= beginChunk {
		w.coder.flush()
	}
	if w.kind == LZMA {
		w.ended = true
		return dst, nil
	}
	return w.emit(dst)
}

package lzmaparse

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// headAlone is the length of the head of a .lzma file: properties, the size of the
// dictionary, and the length of the content, all ones if an end marker says where it ends.
const headAlone = 13

// Reader takes one stream after the other apart: what it reads is the parsed form. It has
// some 0.9 MB of memory. It is for one goroutine.
type Reader struct {
	src  io.Reader
	kind Kind
	back io.ReaderAt

	coder  coder
	model  model
	window window
	kept   kept
	head   [6]byte // of the chunk
	chunk  []byte

	left    int64 // content of the chunk that is to come; of an LZMA stream without a length -1
	begin   group // of the next group
	ended   bool
	err     error
	form    int64 // how much of the parsed form there is
	groups  []place
	parse   []byte
	buffer  []byte // of a group
	pending []byte // of that, to be read
}

// place is where a group's content is.
type place struct{ content, form int64 }

// Reset makes r begin with a stream that src has from its next byte on. back reads the
// parsed form that was read before, at its offset; nil if nobody keeps it: then matches
// farther back than what is in memory are ErrTooFar. Of an LZMA stream without an end
// marker r may take more of src than belongs to it.
func (r *Reader) Reset(src io.Reader, kind Kind, back io.ReaderAt) {
	r.src, r.kind, r.back = src, kind, back
	r.model.lc, r.model.lp, r.model.pb = 0, 0, 0
	r.window.reset()
	r.kept.reset()
	r.left, r.begin, r.ended, r.err, r.form = 0, group{}, false, nil, 0
	r.groups, r.pending = r.groups[:0], nil
	r.model.literals = r.model.literals[:0]
	r.window.from = -1 // a chunk that resets the dictionary comes first
}

// Read reads the parsed form; io.EOF is its end. Its errors are those of this package, and
// those of src and back.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.pending) == 0 {
		if r.err == nil {
			r.buffer, r.err = r.next(r.buffer[:0])
			r.pending = r.buffer
		}
		if r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.pending)
	r.pending = r.pending[n:]
	return n, nil
}

// Ahead is how many bytes of src were taken that do not belong to the stream, as far as it
// was read.
func (r *Reader) Ahead() int64 {
	if r.kind == LZMA {
		return max(int64(len(r.coder.in)-r.coder.at), 0)
	}
	return 0
}

// next appends a group.
func (r *Reader) next(dst []byte) ([]byte, error) {
	if r.ended {
		return dst, io.EOF
	}
	if r.left == 0 && r.begin.begin == beginNone {
		if err := r.open(); err != nil {
			return dst, err
		}
		if r.ended {
			return dst, io.EOF
		}
	}
	if len(r.groups) == maxGroups {
		return dst, fmt.Errorf("%w: more than %d groups", ErrTooLarge, maxGroups)
	}
	g, from := r.begin, r.window.at
	r.begin = group{}
	r.parse = r.parse[:0]
	switch g.begin {
	case beginStored, beginStoredIn:
		r.window.add(r.chunk)
		r.left = 0
		g.last = true
	case beginAlone:
		r.parse = append(r.parse, r.chunk[:headAlone]...)
		if r.left == 0 {
			g.last = true
		}
	default:
		if err := r.packets(&g); err != nil {
			return dst, err
		}
	}
	g.parse, g.content = len(r.parse), int(r.window.at-from)
	dst = append(g.append(dst), r.parse...)
	r.groups = append(r.groups, place{from, r.form + int64(len(dst))})
	dst = r.window.slice(dst, from, r.window.at)
	r.form += int64(len(dst))
	return dst, nil
}

// packets decodes until the group or the chunk is full.
func (r *Reader) packets(g *group) error {
	w, m, c := &r.window, &r.model, &r.coder
	end := w.at + groupContent
	if r.left >= 0 {
		end = min(end, w.at+r.left)
	}
	from, run := w.at, 0
	note := func(rec record) {
		rec.run = run
		r.parse = rec.append(r.parse)
		run = 0
	}
	for w.at < end && len(r.parse) < groupParse {
		position := uint32(w.at - w.from)
		if m.isLiteral(c, position, false) {
			if run == maxRun {
				note(record{choice: nothing})
			}
			run++
			matched := byte(0)
			if !m.plain() {
				var err error
				if matched, err = r.at(m.distances[0]); err != nil {
					return err
				}
			}
			w.put(m.literal(c, position, w.last(), matched, 0))
			continue
		}
		rec := m.match(c, position, record{})
		if r.left < 0 && rec.choice == match && rec.distance == endDistance {
			// The end marker is a match of no content.
			if rec.length != minLength {
				return fmt.Errorf("%w: end marker", ErrCorrupt)
			}
			r.left, r.begin = w.at-from, group{begin: beginEnd}
			break
		}
		if !w.reaches(m.distances[0]) {
			return fmt.Errorf("%w: a match before the beginning", ErrCorrupt)
		}
		if r.left >= 0 && int64(rec.length) > from+r.left-w.at {
			return fmt.Errorf("%w: a match beyond the end", ErrCorrupt)
		}
		if err := r.copy(m.distances[0], rec.length); err != nil {
			return err
		}
		note(rec)
		if c.overrun() {
			break
		}
	}
	if run > 0 {
		note(record{choice: nothing})
	}
	if c.err != nil && !errors.Is(c.err, io.EOF) && !errors.Is(c.err, io.ErrUnexpectedEOF) {
		return c.err
	}
	if c.overrun() {
		return ErrTruncated
	}
	if r.left < 0 {
		return nil
	}
	if r.left -= w.at - from; r.left == 0 {
		g.last = r.begin.begin != beginEnd
		if r.kind == LZMA2 && !c.done() {
			return fmt.Errorf("%w: the end of a chunk", ErrCorrupt)
		}
	}
	return nil
}

// at is the byte at a distance.
func (r *Reader) at(distance uint32) (byte, error) {
	w := &r.window
	switch {
	case !w.reaches(distance):
		return 0, fmt.Errorf("%w: a match before the beginning", ErrCorrupt)
	case w.has(distance):
		return w.byte(distance), nil
	}
	b, err := r.far(w.at-1-int64(distance), 1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (r *Reader) copy(distance uint32, length int) error {
	if r.window.has(distance) {
		r.window.repeat(distance, length)
		return nil
	}
	for at := r.window.at - 1 - int64(distance); length > 0; {
		b, err := r.far(at, length)
		if err != nil {
			return err
		}
		r.window.add(b)
		at, length = at+int64(len(b)), length-len(b)
	}
	return nil
}

// far reads content by its place: n bytes of it, or what of them stands in one group.
func (r *Reader) far(at int64, n int) ([]byte, error) {
	if r.back == nil {
		return nil, ErrTooFar
	}
	k := sort.Search(len(r.groups), func(i int) bool { return r.groups[i].content > at }) - 1
	g, end := r.groups[k], r.window.at
	if k+1 < len(r.groups) {
		end = r.groups[k+1].content
	}
	return r.kept.read(r.back, at, g.form+at-g.content, end-at, int(min(int64(n), end-at)))
}

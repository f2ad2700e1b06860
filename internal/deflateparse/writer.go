package deflateparse

import "groundswell/internal/deflate/codes"

// Writer makes the stream of a parsed form. The zero Writer must be Reset before it is
// used.
type Writer struct {
	err    error
	buf    []byte // of the group at hand
	need   int    // bytes of it that are to be there before it can go on
	head   head
	inHead bool
	begun  bool
	effort uint8
	final  bool // the block at hand is the last
	inside bool // it goes on
	ended  bool
	stored bool
	left   int // of a stored one

	out                 output
	header              header
	literals, distances encoder
	predictor           predictor
}

// Reset makes the Writer begin a stream.
func (w *Writer) Reset() {
	if w.buf == nil {
		w.buf = make([]byte, 0, headLength+maxHeader+maxRecords*recordLength+maxContent)
	}
	w.err = nil
	w.begun, w.inside, w.ended = false, false, false
	w.out = output{}
	w.begin()
}

func (w *Writer) begin() { w.buf, w.need, w.inHead = w.buf[:0], headLength, true }

// Write takes the next bytes of the form and appends to dst what of the stream comes out.
// It returns ErrCorrupt or ErrTooFar if it is the form of no stream, and then always.
func (w *Writer) Write(dst, form []byte) ([]byte, error) {
	w.out.out = dst
	for w.err == nil && len(form) > 0 {
		if w.ended {
			w.err = ErrCorrupt
			break
		}
		n := min(w.need-len(w.buf), len(form))
		w.buf = append(w.buf, form[:n]...)
		form = form[n:]
		for w.err == nil && len(w.buf) == w.need && !w.ended {
			w.err = w.step()
		}
	}
	dst, w.out.out = w.out.out, nil
	return dst, w.err
}

// Finish ends the stream. It returns ErrTruncated if the form is not at its end.
func (w *Writer) Finish(dst []byte) ([]byte, error) {
	if w.err == nil && !w.ended {
		w.err = ErrTruncated
	}
	return dst, w.err
}

// step does what the part in hand says, once it is complete.
func (w *Writer) step() error {
	h := &w.head
	if w.inHead {
		if !h.parse(w.buf) || (h.kind == goesOn) != w.inside || w.inside && h.final != w.final {
			return ErrCorrupt
		}
		if !w.begun {
			w.begun, w.effort = true, h.effort
			w.predictor.reset(int(h.effort))
		}
		if h.effort != w.effort {
			return ErrCorrupt
		}
		w.need += h.header + h.records*recordLength + h.content
		w.inHead = false
		return nil
	}
	rest := w.buf[headLength:]
	header, rest := rest[:h.header], rest[h.header:]
	records, content := rest[:h.records*recordLength], rest[h.records*recordLength:]
	start := w.predictor.slide()
	w.predictor.content = append(w.predictor.content, content...)
	if err := w.group(header, records, start); err != nil {
		return err
	}
	w.final, w.inside, w.ended = h.final, !h.ends, h.ends && h.final
	w.begin()
	return nil
}

func (w *Writer) group(header, records []byte, start int) error {
	h := &w.head
	if h.kind != goesOn {
		v := uint64(h.kind) << 1
		if h.final {
			v |= 1
		}
		w.out.add(v, 3)
		w.out.flush()
	}
	literals, distances := fixedLengths[:fixedCodes], fixedLengths[fixedCodes:]
	content := w.predictor.content[start:]
	switch h.kind {
	case stored:
		if !w.out.align(h.padding) {
			return ErrCorrupt
		}
		w.left = int(header[0]) | int(header[1])<<8
		w.out.add(uint64(w.left)|uint64(w.left^0xffff)<<16, 32)
		w.out.flush()
		w.stored = true
	case dynamic:
		if !w.header.write(&w.out, header) {
			return ErrCorrupt
		}
		literals, distances = w.header.sets()
		fallthrough
	case fixed:
		if w.stored = false; !w.literals.build(literals) || !w.distances.build(distances) {
			return ErrCorrupt
		}
	}
	if w.stored {
		w.left -= len(content)
		if h.ends != (w.left == 0) || w.left < 0 || h.records > 0 || h.padding > 0 && h.kind == goesOn {
			return ErrCorrupt
		}
		w.out.out = append(w.out.out, content...)
		return nil
	}
	symbols := w.symbols
	if h.foretold {
		symbols = w.corrected
	}
	if err := symbols(records, start); err != nil {
		return err
	}
	if h.ends && !w.symbol(&w.literals, endBlock) || h.ends && h.final && !w.out.align(h.padding) {
		return ErrCorrupt
	}
	w.out.flush()
	return nil
}

// symbols appends the literals and matches that records say of the content from a place
// on.
func (w *Writer) symbols(records []byte, at int) error {
	content := w.predictor.content
	for ; len(records) > 0; records = records[recordLength:] {
		rec, ok := readRecord(records)
		if !ok || at+rec.run+rec.length > len(content) || !w.run(content[at:at+rec.run]) {
			return ErrCorrupt
		}
		if at += rec.run; rec.length == 0 {
			continue
		}
		if rec.distance > w.predictor.base+at {
			return ErrTooFar
		}
		if !w.match(rec) {
			return ErrCorrupt
		}
		at += rec.length
	}
	if !w.run(content[at:]) {
		return ErrCorrupt
	}
	return nil
}

func (w *Writer) run(literals []byte) bool {
	for _, b := range literals {
		if !w.symbol(&w.literals, int(b)) {
			return false
		}
		w.out.flush()
	}
	return true
}

func (w *Writer) match(rec record) bool {
	length, distance := rec.length-minMatch, rec.distance-1
	code := codes.OfLength(length, rec.long)
	if !w.symbol(&w.literals, code+firstLength) {
		return false
	}
	w.out.add(uint64(length-int(codes.LengthBases[code])), uint(codes.LengthExtra[code]))
	code = codes.OfDistance(distance)
	if !w.symbol(&w.distances, code) {
		return false
	}
	w.out.add(uint64(distance-int(codes.DistanceBases[code])), uint(codes.DistanceExtra[code]))
	w.out.flush()
	return true
}

func (w *Writer) symbol(e *encoder, symbol int) bool {
	n := e.length[symbol]
	w.out.add(uint64(e.code[symbol]), uint(n))
	return n > 0
}

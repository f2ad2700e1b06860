package zstdparse

// Writer makes the frame of a parsed form. The zero Writer must be Reset before it is used.
type Writer struct {
	buf    []byte // of the form: the part in hand, so far
	need   int    // length of that part, as far as it is known
	state  state
	err    error
	summed bool

	head    head
	literal []byte
	tree    tree
	encoder encoder
	hasTree bool
	tables  [kinds]*encodeTable // nil: none to repeat
	own     [kinds]encodeTable
	counts  counts
}

// state is what part of the form is read.
type state uint8

const (
	inFrameHeader state = iota
	inHeaderRest
	inHead
	inBlock
	inChecksum
	done
)

// Reset makes the Writer begin a frame.
func (w *Writer) Reset() {
	w.buf, w.need, w.state, w.err, w.summed = w.buf[:0], 5, inFrameHeader, nil, false
	w.hasTree = false
	w.tables = [kinds]*encodeTable{}
}

// Write takes the next bytes of a form and appends to dst what they make of the frame. It
// returns ErrCorrupt or ErrUnsupported, dst having what was made before; so do all calls
// after that.
func (w *Writer) Write(dst, form []byte) ([]byte, error) {
	for w.err == nil && len(form) > 0 {
		if w.state == done {
			w.err = ErrCorrupt
			break
		}
		n := min(w.need-len(w.buf), len(form))
		w.buf = append(w.buf, form[:n]...)
		form = form[n:]
		for w.err == nil && len(w.buf) == w.need && w.state != done {
			dst = w.step(dst)
		}
	}
	return dst, w.err
}

// Finish ends the frame and appends what is left of it. It returns ErrTruncated if the form
// is not at its end.
func (w *Writer) Finish(dst []byte) ([]byte, error) {
	if w.err == nil && w.state != done {
		w.err = ErrTruncated
	}
	return dst, w.err
}

// step does what the part in hand says, once it is complete.
func (w *Writer) step(dst []byte) []byte {
	switch w.state {
	case inFrameHeader:
		if w.err = checkHeader(w.buf); w.err == nil {
			w.need, w.summed = frameHeader(w.buf[4])
			w.state = inHeaderRest
		}
	case inHeaderRest:
		dst = append(dst, w.buf...)
		w.begin(inHead, headLength)
	case inHead:
		if !w.head.parse(w.buf) {
			w.err = ErrCorrupt
			break
		}
		w.need += w.head.parseLength + w.head.content
		w.state = inBlock
	case inBlock:
		dst = w.block(dst)
		switch {
		case !w.head.last:
			w.begin(inHead, headLength)
		case w.summed:
			w.begin(inChecksum, 4)
		default:
			w.begin(done, 0)
		}
	case inChecksum:
		dst = append(dst, w.buf...)
		w.begin(done, 0)
	}
	return dst
}

func (w *Writer) begin(s state, need int) { w.buf, w.state, w.need = w.buf[:0], s, need }

// block appends the block whose form is in w.buf.
func (w *Writer) block(dst []byte) []byte {
	begin := len(dst)
	parse := w.buf[headLength:]
	content := parse[w.head.parseLength:]
	parse = parse[:w.head.parseLength]
	dst = append(dst, 0, 0, 0)
	size := 0
	switch w.head.kind {
	case blockRaw:
		dst = append(dst, content...)
		size = len(content)
	case blockRLE:
		dst = append(dst, firstOf(content))
		size = len(content)
	case blockCompressed:
		var ok bool
		dst, ok = w.compressed(dst, parse, content)
		if size = len(dst) - begin - 3; !ok || size > maxBlock {
			w.err = ErrCorrupt
			return dst[:begin]
		}
	}
	header := uint32(size)<<3 | uint32(w.head.kind)<<1
	if w.head.last {
		header |= 1
	}
	put24(dst[begin:], header)
	return dst
}

// firstOf is the byte that all of them are, or any if there are none.
func firstOf(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

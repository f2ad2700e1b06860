package zstdparse

import (
	"fmt"
	"io"
	"sort"
)

// Reader takes one frame apart: what is read from it is the frame's parsed form. The zero
// Reader must be Reset before it is used.
type Reader struct {
	src  io.Reader
	back io.ReaderAt
	err  error // what the next call says, once form and content are given

	form    []byte // of the block (or of the frame's header) that is still to be given
	content []byte
	given   int64 // of the form, what was handed out or stands in form and content
	begun   bool
	ended   bool // the last block was read
	summed  bool // a checksum follows it

	three   [3]byte // of the block
	head    head
	block   []byte // pad bytes, then the block as in the frame
	parse   []byte // head, descriptions, sequences
	longs   []byte
	literal []byte // of the block

	window []byte // the last bytes of the content
	start  int    // where in the window the block in hand begins
	end    int    // where the next bytes come to
	total  int64  // content before the block in hand
	blocks blocks

	rep     [3]uint32
	tree    tree
	decoder decoder
	hasTree bool
	tables  [kinds]*decodeTable // nil: none to repeat
	own     [kinds]decodeTable
	counts  counts
}

// Reset makes the Reader take apart the frame that src is at. back reads the form that was
// given before, by its offset, for matches farther back than Window; nil: such a match is
// ErrTooFar.
func (r *Reader) Reset(src io.Reader, back io.ReaderAt) {
	r.src, r.back, r.err = src, back, nil
	r.form, r.content, r.given = nil, nil, 0
	r.begun, r.ended, r.summed = false, false, false
	r.end, r.total = 0, 0
	r.blocks.reset()
	r.rep = [3]uint32{1, 4, 8}
	r.hasTree = false
	r.tables = [kinds]*decodeTable{}
}

// Read gives the next bytes of the form, at most what is left of a block: whatever was
// given by earlier calls can then be read through back. It returns io.EOF behind the frame,
// of which no byte more was read, one of the sentinels, or the error of the source.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.form)+len(r.content) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.err = r.next(); r.err != nil {
			r.form, r.content = nil, nil
			continue
		}
		r.given += int64(len(r.form) + len(r.content))
		if r.given > MaxForm {
			r.form, r.content, r.err = nil, nil, ErrTooLarge
		}
	}
	n := copy(p, r.form)
	r.form = r.form[n:]
	m := copy(p[n:], r.content)
	r.content = r.content[m:]
	return n + m, nil
}

// fill reads all of b.
func (r *Reader) fill(b []byte) error {
	switch _, err := io.ReadFull(r.src, b); err {
	case nil:
		return nil
	case io.EOF, io.ErrUnexpectedEOF:
		return ErrTruncated
	default:
		return fmt.Errorf("read zstd frame: %w", err)
	}
}

// next reads the frame's header, a block, or the checksum.
func (r *Reader) next() error {
	r.parse = resize(r.parse, 18)
	switch {
	case !r.begun:
		r.begun = true
		return r.header()
	case !r.ended:
		return r.nextBlock()
	case r.summed:
		r.summed = false
		r.form = r.parse[:4]
		return r.fill(r.form)
	}
	return io.EOF
}

func (r *Reader) header() error {
	if err := r.fill(r.parse[:5]); err != nil {
		return err
	}
	if err := checkHeader(r.parse); err != nil {
		return err
	}
	var n int
	n, r.summed = frameHeader(r.parse[4])
	r.form = r.parse[:n]
	return r.fill(r.form[5:])
}

func (r *Reader) nextBlock() error {
	b := &r.three
	if err := r.fill(b[:]); err != nil {
		return err
	}
	n := int(get24(b[:]) >> 3)
	if n > maxBlock {
		return ErrCorrupt
	}
	r.head = head{kind: b[0] >> 1 & 3, last: b[0]&1 != 0}
	r.ended = r.head.last
	r.room()
	r.start = r.end
	r.parse = resize(r.parse, headLength)
	switch r.head.kind {
	case blockRaw:
		if err := r.fill(r.window[r.start : r.start+n]); err != nil {
			return err
		}
		r.end += n
	case blockRLE:
		run := r.window[r.start : r.start+n]
		if err := r.fill(b[:1]); err != nil {
			return err
		}
		for i := range run {
			run[i] = b[0]
		}
		r.end += n
	case blockCompressed:
		r.block = resize(r.block, pad+n)
		if err := r.fill(r.block[pad:]); err != nil {
			return err
		}
		if err := r.compressed(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	r.head.content = r.end - r.start
	r.head.put(r.parse)
	r.form, r.content = r.parse, r.window[r.start:r.end]
	if r.head.content > 0 {
		r.blocks.add(r.total, r.given+int64(len(r.form)))
		r.total += int64(r.head.content)
	}
	return nil
}

// room makes the window hold a block more, and Window before it.
func (r *Reader) room() {
	if r.end+maxBlock+slack <= len(r.window) {
		return
	}
	const most = Window + 3*maxBlock + slack
	if len(r.window) < most {
		grown := make([]byte, min(most, max(2*len(r.window), r.end+maxBlock+slack)))
		copy(grown, r.window[:r.end])
		r.window = grown
		return
	}
	r.end = copy(r.window, r.window[r.end-Window:r.end])
}

// slack is how many bytes behind the content copies may write.
const slack = 32

// far copies what of n bytes of content is not in the window to at, and returns how many
// these were. source is where they are, seen from the window's begin, and negative.
func (r *Reader) far(at, source, n int) (int, error) {
	from := r.total - int64(r.start) + int64(source)
	if from < 0 {
		return 0, ErrCorrupt
	}
	if r.back == nil {
		return 0, ErrTooFar
	}
	n = min(n, -source)
	for done := 0; done < n; {
		form, left, ok := r.blocks.find(from + int64(done))
		if !ok {
			return 0, ErrTooFar
		}
		piece := r.window[at+done : at+n]
		piece = piece[:min(int64(len(piece)), left)]
		if got, err := r.back.ReadAt(piece, form); got < len(piece) {
			return 0, fmt.Errorf("read parsed form of zstd frame: %w", err)
		}
		done += len(piece)
	}
	return n, nil
}

func resize(b []byte, n int) []byte {
	if cap(b) < n {
		return append(b[:cap(b)], make([]byte, n-cap(b))...)[:n]
	}
	return b[:n]
}

// blocks says where in the form the content is, of the last maxBlocks blocks.
type blocks struct {
	list  []place
	first int // the oldest, once the list is full
}

const maxBlocks = 1 << 16

// place is where a block's content begins, in the content and in the form.
type place struct{ content, form uint32 }

func (b *blocks) reset() { b.list, b.first = b.list[:0], 0 }

func (b *blocks) add(content, form int64) {
	p := place{uint32(content), uint32(form)}
	if len(b.list) < maxBlocks {
		b.list = append(b.list, p)
		return
	}
	b.list[b.first] = p
	b.first = (b.first + 1) % maxBlocks
}

func (b *blocks) at(i int) place { return b.list[(b.first+i)%len(b.list)] }

// find says where in the form a byte of the content is and how many follow it there.
func (b *blocks) find(content int64) (form, left int64, ok bool) {
	i := sort.Search(len(b.list), func(i int) bool { return int64(b.at(i).content) > content })
	if i == 0 {
		return 0, 0, false
	}
	p := b.at(i - 1)
	left = MaxForm // the last block: whoever asks, asks for what there was
	if i < len(b.list) {
		left = int64(b.at(i).content) - content
	}
	return int64(p.form) + content - int64(p.content), left, true
}

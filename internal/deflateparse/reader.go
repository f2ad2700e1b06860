package deflateparse

import (
	"io"

	"groundswell/internal/deflate/codes"
)

// Reader takes one stream apart: what is read from it is the stream's parsed form. The zero
// Reader must be Reset before it is used.
type Reader struct {
	in    input
	err   error // what the next call says, once all is given
	given int64

	block  head // the one at hand: its kind, and whether it is the last
	inside bool // it goes on
	left   int  // of a stored one
	ended  bool // the last one was read

	header              header
	literals, distances decoder

	predictor   predictor // of which the content is
	start       int       // of the group there
	effort      int
	head        [headLength]byte
	records     []byte
	corrections []byte
	rest        [4][]byte // of the group, what is still to be given
}

// Reset makes the Reader take apart the stream that src is at, with one of the Efforts:
// whose work it is taken to be decides how long the form is. 0: nobody's.
func (r *Reader) Reset(src io.ByteReader, effort int) {
	r.in = input{src: src}
	r.err, r.given = nil, 0
	r.inside, r.ended, r.left = false, false, 0
	r.effort = effort
	r.predictor.reset(effort)
	r.rest = [4][]byte{}
}

// Read gives the next bytes of the form. It returns io.EOF behind the stream, one of the
// sentinels, or the error of the source.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		for i := range r.rest {
			if len(r.rest[i]) > 0 {
				n := copy(p, r.rest[i])
				r.rest[i] = r.rest[i][n:]
				return n, nil
			}
		}
		if r.err == nil {
			r.err = r.next()
		}
		if r.err != nil {
			r.rest = [4][]byte{}
			return 0, r.err
		}
	}
}

// Ahead is how many bytes of the source behind what was read so far were taken.
func (r *Reader) Ahead() int64 { return r.in.ahead() }

// next reads a group.
func (r *Reader) next() error {
	if r.ended {
		return io.EOF
	}
	if r.records == nil {
		r.records = make([]byte, 0, maxRecords*recordLength)
		r.corrections = make([]byte, 0, maxRecords*recordLength)
	}
	r.start = r.predictor.slide()
	r.header.form, r.records = r.header.form[:0], r.records[:0]
	g := head{kind: goesOn, final: r.block.final, effort: uint8(r.effort)}
	err := r.group(&g)
	if failed := r.in.failed(); failed != nil {
		err = failed
	}
	if err != nil {
		return err
	}
	records, content := r.records, r.predictor.content[r.start:]
	if most := len(records) - recordLength; r.effort > 0 && most >= 0 {
		if shorter, ok := r.predictor.corrections(r.corrections[:0:most], records, r.start); ok {
			records, g.foretold = shorter, true
		}
	}
	g.header, g.content, g.records = len(r.header.form), len(content), len(records)/recordLength
	g.put(r.head[:])
	r.rest = [4][]byte{r.head[:], r.header.form, records, content}
	for _, part := range r.rest {
		r.given += int64(len(part))
	}
	if r.given > MaxForm {
		return ErrTooLarge
	}
	return nil
}

func (r *Reader) group(g *head) (err error) {
	if !r.inside {
		r.in.fill()
		g.final, g.kind = r.in.take(1) == 1, uint8(r.in.take(2))
		r.block = *g
		if err = r.begin(g); err != nil {
			return err
		}
	}
	if r.block.kind == stored {
		err = r.stored(g)
	} else {
		err = r.symbols(g)
	}
	r.inside = !g.ends
	if r.ended = g.ends && g.final; r.ended && r.block.kind != stored {
		g.padding = uint8(r.in.take(r.in.n & 7))
	}
	return err
}

// begin reads the header of a block, and all of a stored one.
func (r *Reader) begin(g *head) error {
	literals, distances := fixedLengths[:fixedCodes], fixedLengths[fixedCodes:]
	switch g.kind {
	case stored:
		g.padding = uint8(r.in.take(r.in.n & 7))
		r.left = r.in.read(16)
		if complement := r.in.read(16); r.left != complement^0xffff {
			return ErrCorrupt
		}
		r.header.form = append(r.header.form, byte(r.left), byte(r.left>>8))
		return nil
	case goesOn:
		return ErrCorrupt
	case dynamic:
		if !r.header.read(&r.in) {
			return ErrCorrupt
		}
		literals, distances = r.header.sets()
	}
	if !r.literals.build(literals) || !r.distances.build(distances) {
		return ErrCorrupt
	}
	return nil
}

func (r *Reader) stored(g *head) error {
	n := min(r.left, maxContent)
	for range n {
		r.in.fill()
		r.predictor.content = append(r.predictor.content, byte(r.in.take(8)))
	}
	r.left -= n
	g.ends = r.left == 0
	return nil
}

// symbols reads what of a block there is in the group.
func (r *Reader) symbols(g *head) error {
	in, content := &r.in, r.predictor.content
	most := r.start + maxContent - maxMatch
	run := 0
	for len(content) <= most {
		in.fill()
		symbol, n := r.literals.next(in.acc)
		if symbol < 0 {
			return ErrCorrupt
		}
		in.skip(n)
		if symbol < endBlock {
			content = append(content, byte(symbol))
			run++
			continue
		}
		if symbol == endBlock {
			g.ends = true
			break
		}
		if symbol -= firstLength; symbol > codes.Longest {
			return ErrCorrupt
		}
		length := int(codes.LengthBases[symbol]) + in.take(uint(codes.LengthExtra[symbol])) + minMatch
		code, n := r.distances.next(in.acc)
		if code < 0 || code >= distanceCodes {
			return ErrCorrupt
		}
		in.skip(n)
		distance := int(codes.DistanceBases[code]) + in.take(uint(codes.DistanceExtra[code])) + 1
		if distance > len(content) {
			return ErrTooFar
		}
		for ; run > maxRun; run -= maxRun {
			r.note(record{run: maxRun})
		}
		r.note(record{run, length, distance, length == maxMatch && symbol != codes.Longest})
		run = 0
		for end := len(content) + length; len(content) < end; {
			from := len(content) - distance
			content = append(content, content[from:min(from+end-len(content), len(content))]...)
		}
	}
	r.predictor.content = content
	return nil
}

func (r *Reader) note(rec record) {
	n := len(r.records)
	r.records = r.records[:n+recordLength]
	rec.put(r.records[n:])
}

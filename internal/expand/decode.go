package expand

import (
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"groundswell/internal/delta"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is what a unit's bytes are checked by.
func Sum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// Check is ErrTruncated, ErrTooLarge or ErrSum unless data are the unit's bytes.
func (u Unit) Check(data []byte) error {
	switch {
	case int64(len(data)) < u.Length:
		return ErrTruncated
	case int64(len(data)) > u.Length:
		return ErrTooLarge
	case Sum(data) != u.Sum:
		return ErrSum
	}
	return nil
}

// blockSlack is how much more than it has to a unit makes, mostly: streams come by blocks.
const blockSlack = 132 << 10

// Decoder makes units of a new image, best one after the other. It is for one goroutine.
// Besides the memory of a delta.Decoder it takes some 3 MB, with
// streams of xz and zstd up to 7 MB, and what a unit makes.
type Decoder struct {
	head   *Head
	inner  *delta.Decoder
	stream Writer
	room   Scratch // for what the stream has passed
	next   int     // the unit that can go on with what was made before; -1: none
	maker  maker
	taken  int // of what the maker made: by the last unit
	piece  []byte
}

// NewDecoder prepares to decode. old is the image that the delta was made from: with
// another one, what is decoded is wrong, or it fails. scratch has room for
// h.Scratch() bytes.
func NewDecoder(h *Head, image io.ReaderAt, scratch Scratch) (*Decoder, error) {
	inner, err := delta.NewDecoder(h.Inner, newOld(h, image, scratch))
	if err != nil {
		return nil, err
	}
	return &Decoder{head: h, inner: inner, next: -1, room: part{scratch, h.oldRoom()}}, nil
}

// Follows is whether unit n needs no bytes but its own, as unit n-1 was made last.
func (d *Decoder) Follows(n int) bool { return d.next == n }

// Unit is what unit n makes, until the next call. data gives the bytes of a unit, of which it is
// asked for n, and unless that Follows for those before it, from Head.Since on. Its errors are those of this package and of package delta, data's, and those of the
// readers. The result of data is not used after its next call.
func (d *Decoder) Unit(n int, data func(unit int) ([]byte, error)) ([]byte, error) {
	if n < 0 || n >= len(d.head.Units) {
		return nil, fmt.Errorf("%w: %d", ErrUnit, n)
	}
	u, m := d.head.Units[n], &d.maker
	first := n
	if d.next == n {
		m.out = append(m.out[:0], m.out[d.taken:]...)
	} else {
		first = d.head.Since(n)
		expanded, at := d.head.restart(n)
		d.maker = maker{streams: d.head.New, at: expanded, image: at, wanted: u.Start, stream: &d.stream, room: d.room, out: m.out[:0]}
	}
	d.next = -1
	m.out = slices.Grow(m.out, max(int(u.Size)+blockSlack-len(m.out), 0))
	for k := first; k <= n; k++ {
		raw, err := data(k)
		if err == nil {
			err = d.head.Units[k].Check(raw)
		}
		if err == nil {
			err = d.feed(k, raw, u.Start+u.Size)
		}
		if err != nil {
			return nil, fmt.Errorf("unit %d: %w", k, err)
		}
	}
	if int64(len(m.out)) < u.Size {
		return nil, fmt.Errorf("unit %d: %w: it makes %d bytes of %d", n, ErrCorrupt, len(m.out), u.Size)
	}
	d.next, d.taken = n+1, int(u.Size)
	return m.out[:u.Size], nil
}

// feed decodes a unit's segments, from where the maker is on. end is where in the image
// that ends which is wanted.
func (d *Decoder) feed(k int, raw []byte, end int64) error {
	u, m := d.head.Units[k], &d.maker
	for i := u.first; i < u.end; i++ {
		s := d.head.Inner.Segments[i]
		data := raw[:s.Length]
		raw = raw[s.Length:]
		if s.Start+s.Size <= m.at {
			continue
		}
		var err error
		if d.piece, err = d.inner.Segment(d.piece[:0], i, data); err != nil {
			return err
		}
		if err := m.write(d.piece[m.at-s.Start:], end+maxAhead); err != nil {
			return err
		}
	}
	return nil
}

// maker makes an image of its expanded form.
type maker struct {
	streams []Stream
	at      int64 // in the expanded image
	image   int64 // in the image: what comes next
	wanted  int64 // what comes before it is not wanted
	stream  *Writer
	room    Scratch
	inside  bool   // a stream was begun
	began   int64  // where in the image
	out     []byte // what was made, from wanted on, and not taken yet
}

// write makes what comes of the next bytes of the expanded image. Nothing may be made
// from the place limit of the image on.
func (m *maker) write(p []byte, limit int64) error {
	for len(p) > 0 {
		k := streamAt(m.streams, m.at) - 1
		before := len(m.out)
		if k >= 0 && m.at < m.streams[k].start+m.streams[k].Size {
			s := m.streams[k]
			if !m.inside {
				if err := m.stream.Reset(s, m.room); err != nil {
					return err
				}
				m.inside, m.began = true, m.image
			}
			// In steps, so that it is not all made before it is looked at.
			n := min(int64(len(p)), s.start+s.Size-m.at, 64<<10)
			var err error
			m.out, err = m.stream.Write(m.out, p[:n])
			p, m.at = p[n:], m.at+n
			if err == nil && m.at == s.start+s.Size {
				m.out, err = m.stream.Finish(m.out)
				m.inside = false
			}
			if err != nil {
				return fmt.Errorf("the stream at %d: %w", s.At, err)
			}
			m.made(before)
			if !m.inside && m.image != s.At+s.Length {
				return fmt.Errorf("%w: a stream has %d bytes instead of %d", ErrCorrupt, m.image-m.began, s.Length)
			}
		} else {
			n := int64(len(p))
			if k+1 < len(m.streams) {
				n = min(n, m.streams[k+1].start-m.at)
			}
			m.out = append(m.out, p[:n]...)
			p, m.at = p[n:], m.at+n
			m.made(before)
		}
		if m.image > limit {
			return fmt.Errorf("%w: a unit makes too much", ErrTooLarge)
		}
	}
	return nil
}

// made counts what was appended to out, and drops of it what is not wanted.
func (m *maker) made(before int) {
	n := int64(len(m.out) - before)
	if skip := min(m.wanted-m.image, n); skip > 0 {
		m.out = append(m.out[:before], m.out[before+int(skip):]...)
	}
	m.image += n
}

// part is a scratch behind what is used of another one.
type part struct {
	Scratch
	from int64
}

func (p part) ReadAt(b []byte, at int64) (int, error)  { return p.Scratch.ReadAt(b, p.from+at) }
func (p part) WriteAt(b []byte, at int64) (int, error) { return p.Scratch.WriteAt(b, p.from+at) }

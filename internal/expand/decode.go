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

// Check is ErrTruncated or ErrSum unless a delta has the unit's bytes at their place, or the
// error of reading it.
func (u Unit) Check(delta io.ReaderAt) error {
	sum := crc32.New(castagnoli)
	n, err := io.Copy(sum, io.NewSectionReader(delta, u.Offset, u.Length))
	switch {
	case err != nil:
		return err
	case n < u.Length:
		return ErrTruncated
	case sum.Sum32() != u.Sum:
		return ErrSum
	}
	return nil
}

// step is of how many bytes of the expanded image the streams are made at a time.
const step = 64 << 10

// Decoder makes units of a new image, best one after the other. It is for one goroutine.
// Besides the memory of a delta.Decoder it takes some 2 MB, with streams of xz and zstd up
// to 5 MB: of what a unit makes it keeps what comes in one step.
type Decoder struct {
	head   *Head
	inner  *delta.Decoder
	stream Writer
	room   Scratch // for what the stream has passed
	next   int     // the unit that can go on with what was made before; -1: none
	maker  maker
	raw    []byte // of the delta: the segment at hand
	piece  []byte // what it makes

	collections collections
}

// NewDecoder prepares to decode. old is the image that the delta was made from: with
// another one, what is decoded is wrong, or it fails. scratch has room for
// h.Scratch() bytes.
func NewDecoder(h *Head, image io.ReaderAt, scratch Scratch) (*Decoder, error) {
	inner, err := delta.NewDecoder(h.Inner, newOld(h, image, scratch))
	if err != nil {
		return nil, err
	}
	return &Decoder{head: h, inner: inner, next: -1, room: part{scratch, h.oldRoom()}, collections: mostCollections}, nil
}

// Follows is whether unit n needs no bytes but its own, as unit n-1 was made last.
func (d *Decoder) Follows(n int) bool { return d.next == n }

// Unit writes to w what unit n makes, by and by: whether it is right is known when all is
// there. Of the delta it reads that unit, and unless that Follows those before it, from
// Head.Since on: each twice, to check it before anything is made of it. Its errors are those
// of this package and of package delta, of the readers and of w.
func (d *Decoder) Unit(n int, delta io.ReaderAt, w io.Writer) error {
	if n < 0 || n >= len(d.head.Units) {
		return fmt.Errorf("%w: %d", ErrUnit, n)
	}
	u, m := d.head.Units[n], &d.maker
	first := n
	if d.next != n {
		first = d.head.Since(n)
		expanded, at := d.head.restart(n)
		d.maker = maker{streams: d.head.New, at: expanded, image: at, from: u.Start, stream: &d.stream, room: d.room, collections: &d.collections, out: m.out[:0]}
	}
	d.next = -1
	m.to = u.Start + u.Size
	if err := m.give(w); err != nil {
		return err
	}
	for k := first; k <= n; k++ {
		err := d.head.Units[k].Check(delta)
		if err == nil {
			err = d.feed(k, delta, w)
		}
		if err != nil {
			return fmt.Errorf("unit %d: %w", k, err)
		}
	}
	if m.from < m.to {
		return fmt.Errorf("unit %d: %w: it makes %d bytes of %d", n, ErrCorrupt, u.Size-(m.to-m.from), u.Size)
	}
	d.next = n + 1
	return nil
}

// feed decodes a unit's segments, from where the maker is on.
func (d *Decoder) feed(k int, delta io.ReaderAt, w io.Writer) error {
	u, m := d.head.Units[k], &d.maker
	at := u.Offset
	for i := u.first; i < u.end; i++ {
		s := d.head.Inner.Segments[i]
		from := at
		at += s.Length
		if s.Start+s.Size <= m.at {
			continue
		}
		d.raw = slices.Grow(d.raw[:0], int(s.Length))[:s.Length]
		n, err := delta.ReadAt(d.raw, from)
		if n < len(d.raw) {
			return fmt.Errorf("read the delta: %w", err)
		}
		if d.piece, err = d.inner.Segment(d.piece[:0], i, d.raw); err != nil {
			return err
		}
		if err := m.write(d.piece[m.at-s.Start:], w); err != nil {
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
	from    int64 // what is given next; what comes before it is not wanted
	to      int64 // up to where it is given
	stream  *Writer
	room    Scratch

	collections *collections
	inside      bool   // a stream was begun
	began       int64  // where in the image
	out         []byte // what was made and is not given yet: of the image from max(from, image) on
}

// write gives w what comes of the next bytes of the expanded image, and keeps what is behind
// that which is given, maxAhead bytes at most.
func (m *maker) write(p []byte, w io.Writer) error {
	for len(p) > 0 {
		k := streamAt(m.streams, m.at) - 1
		before := len(m.out)
		if k >= 0 && m.at < m.streams[k].start+m.streams[k].Size {
			s := m.streams[k]
			if !m.inside {
				m.stream.leave(s.Codec, m.collections)
				if err := m.stream.Reset(s, m.room); err != nil {
					return err
				}
				m.inside, m.began = true, m.image
			}
			// In steps, so that it is not all made before it is looked at.
			n := min(int64(len(p)), s.start+s.Size-m.at, step)
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
			n := int64(min(len(p), step))
			if k+1 < len(m.streams) {
				n = min(n, m.streams[k+1].start-m.at)
			}
			m.out = append(m.out, p[:n]...)
			p, m.at = p[n:], m.at+n
			m.made(before)
		}
		if m.image > m.to+maxAhead {
			return fmt.Errorf("%w: a unit makes too much", ErrTooLarge)
		}
		if err := m.give(w); err != nil {
			return err
		}
	}
	return nil
}

// made counts what was appended to out, and drops of it what is not wanted.
func (m *maker) made(before int) {
	n := int64(len(m.out) - before)
	if skip := min(m.from-m.image, n); skip > 0 {
		m.out = append(m.out[:before], m.out[before+int(skip):]...)
	}
	m.image += n
}

// give gives w what is there and due.
func (m *maker) give(w io.Writer) error {
	n := int(min(int64(len(m.out)), m.to-m.from))
	if n == 0 {
		return nil
	}
	if _, err := w.Write(m.out[:n]); err != nil {
		return err
	}
	m.from += int64(n)
	m.out = append(m.out[:0], m.out[n:]...)
	return nil
}

// part is a scratch behind what is used of another one.
type part struct {
	Scratch
	from int64
}

func (p part) ReadAt(b []byte, at int64) (int, error)  { return p.Scratch.ReadAt(b, p.from+at) }
func (p part) WriteAt(b []byte, at int64) (int, error) { return p.Scratch.WriteAt(b, p.from+at) }

package expand

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// Scratch is where the content of large streams is kept while a decoder is in use. What
// it held before does not matter.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
}

// cached is how many bytes of the content of small streams are kept in memory, at most; a
// longer one is there alone.
const cached = 512 << 10

// old reads the expanded form of an image.
type old struct {
	image   io.ReaderAt
	streams []Stream
	length  int64 // of the image
	scratch Scratch
	places  map[int]int64 // of large streams in the scratch
	filled  map[int]bool

	room   []byte    // for the content of small streams, one behind the other and round again
	at     int       // where the next one goes
	recent []content // what is there, the latest last
	work   int64     // how many bytes may still be inflated
	reader Reader
	source source

	collections collections
}

// content of a small stream, in the room.
type content struct{ stream, from, to int }

func newOld(h *Head, image io.ReaderAt, scratch Scratch) *old {
	o := &old{image: image, streams: h.Old, length: h.OldLength, scratch: scratch, places: map[int]int64{}, filled: map[int]bool{}, collections: mostCollections}
	at := int64(0)
	var all, longest int64 // of small streams
	for i, s := range h.Old {
		if s.Size > small {
			o.places[i] = at
			at += s.Size
		} else {
			o.work += maxInflated * s.work()
			all, longest = all+s.Size, max(longest, s.Size)
		}
	}
	o.work += maxInflatedMore
	o.room = make([]byte, max(longest, min(all, cached)))
	return o
}

// work is what reading all of a stream costs, in bytes that are inflated.
func (s Stream) work() int64 {
	switch s.Codec {
	case Deflate:
		return s.Size
	case DeflateParsed:
		return max(s.Size, leastParsedWork)
	}
	return max(s.Size, leastWork)
}

// ReadAt reads the expanded image.
func (o *old) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := o.read(p[done:], at+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// read reads some bytes: of one stream, or of what is between two.
func (o *old) read(p []byte, at int64) (int, error) {
	k := streamAt(o.streams, at) - 1
	from := at
	if k >= 0 {
		s := o.streams[k]
		if inside := at - s.start; inside < s.Size {
			p = p[:min(int64(len(p)), s.Size-inside)]
			return o.content(p, k, inside)
		}
		from = at - s.start - s.Size + s.At + s.Length
	}
	most := o.length - from
	if k+1 < len(o.streams) {
		most = o.streams[k+1].At - from
	}
	if most <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), most)]
	n, err := o.image.ReadAt(p, from)
	if n == len(p) {
		err = nil
	}
	return n, err
}

func (o *old) content(p []byte, k int, at int64) (int, error) {
	if place, large := o.places[k]; large {
		if err := o.fill(k, place); err != nil {
			return 0, err
		}
		n, err := o.scratch.ReadAt(p, place+at)
		if n == len(p) {
			err = nil
		}
		return n, err
	}
	data, err := o.small(k)
	return copy(p, data[min(at, int64(len(data))):]), err
}

// small is the content of a small stream.
func (o *old) small(k int) ([]byte, error) {
	for _, c := range o.recent {
		if c.stream == k {
			return o.room[c.from:c.to], nil
		}
	}
	size := int(o.streams[k].Size)
	if o.work -= o.streams[k].work(); o.work < 0 {
		return nil, ErrWork
	}
	if o.at+size > len(o.room) {
		o.at = 0
	}
	c := content{k, o.at, o.at + size}
	o.recent = slices.DeleteFunc(o.recent, func(v content) bool { return v.from < c.to && v.to > c.from })
	room := o.room[c.from:c.to]
	if err := o.inflate(k, room, bytes.NewReader(room), func([]byte) error { return nil }); err != nil {
		return nil, err
	}
	o.recent, o.at = append(o.recent, c), c.to
	return room, nil
}

// fill puts the content of a large stream into the scratch, once.
func (o *old) fill(k int, place int64) error {
	if o.filled[k] {
		return nil
	}
	buffer := make([]byte, 64<<10)
	at := place
	err := o.inflate(k, buffer, io.NewSectionReader(o.scratch, place, o.streams[k].Size), func(data []byte) error {
		_, err := o.scratch.WriteAt(data, at)
		at += int64(len(data))
		return err
	})
	if o.filled[k] = err == nil; len(o.filled) == len(o.places) {
		o.reader.forget()
	}
	return err
}

// inflate gives the content of a stream to use, in pieces as large as the buffer. It is
// as long as it was said to be, or the old image is another one. back has what was used.
func (o *old) inflate(k int, buffer []byte, back io.ReaderAt, use func(data []byte) error) error {
	s := o.streams[k]
	o.source.reset(o.image, s.At, s.Length)
	o.reader.leave(s.Codec, &o.collections)
	if err := o.reader.Reset(s, &o.source, back); err != nil {
		return err
	}
	for left := s.Size; left > 0; {
		n, err := io.ReadFull(&o.reader, buffer[:min(left, int64(len(buffer)))])
		if err != nil {
			if o.source.err != nil {
				return fmt.Errorf("read the old image: %w", o.source.err)
			}
			if err = corrupt(err); s.Codec == Deflate || err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			return fmt.Errorf("stream at %d of the old image: %w", s.At, err)
		}
		if err := use(buffer[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// source reads a range of an image, byte by byte as flate wants it.
type source struct {
	image    io.ReaderAt
	at, end  int64
	buffer   [4096]byte
	have, in int
	err      error // of the image
}

func (s *source) reset(image io.ReaderAt, at, length int64) {
	s.image, s.at, s.end, s.have, s.in, s.err = image, at, at+length, 0, 0, nil
}

func (s *source) more() error {
	n := min(int64(len(s.buffer)), s.end-s.at)
	if n <= 0 {
		return io.EOF
	}
	got, err := s.image.ReadAt(s.buffer[:n], s.at)
	if got == 0 {
		s.err = err
		return err
	}
	s.at, s.have, s.in = s.at+int64(got), 0, got
	return nil
}

// Read reads some bytes.
func (s *source) Read(p []byte) (int, error) {
	if s.have == s.in {
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buffer[s.have:s.in])
	s.have += n
	return n, nil
}

// ReadByte reads one.
func (s *source) ReadByte() (byte, error) {
	if s.have == s.in {
		if err := s.more(); err != nil {
			return 0, err
		}
	}
	s.have++
	return s.buffer[s.have-1], nil
}

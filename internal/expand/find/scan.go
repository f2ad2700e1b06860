package find

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// least is the least content of a stream that is looked into, in bytes: what a smaller one
// could save is less than what it takes to say where it is.
const least = 256

// container is what a stream stands in.
type container uint8

const (
	inGzip container = iota
	inZlib
	inZip
)

// found is a stream, and what it stands in.
type found struct {
	expand.Stream
	in container
}

// Streams finds the deflate streams of an image: the first expand.MaxStreams, and no more
// than the expanded image has room for.
func streams(ctx context.Context, image []byte) ([]found, error) {
	var list []found
	s := &scanner{image: image}
	grown := int64(len(image))
	for at := 0; at < len(image) && len(list) < expand.MaxStreams; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at = next(image, at)
		begin, in, ok := head(image, at)
		if !ok {
			at++
			continue
		}
		f, ok := s.inflate(begin, in, delta.MaxImage-grown)
		if !ok {
			at++
			continue
		}
		if f.Size >= least {
			list = append(list, f)
			grown += f.Size - f.Length
		}
		at = int(f.At + f.Length)
	}
	return list, nil
}

// next is the next place where a head may be.
func next(image []byte, at int) int {
	for ; at < len(image); at++ {
		switch image[at] {
		case 0x1f, 0x78, 'P':
			return at
		}
	}
	return at
}

// head says where a stream begins, if a head stands at a place.
func head(image []byte, at int) (begin int, in container, ok bool) {
	h := image[at:]
	switch {
	case len(h) > 18 && h[0] == 0x1f && h[1] == 0x8b && h[2] == 8 && h[3]&0xe0 == 0:
		n, ok := gzipHead(h)
		return at + n, inGzip, ok
	case len(h) > 6 && h[0] == 0x78 && h[1]&0x20 == 0 && (int(h[0])<<8|int(h[1]))%31 == 0:
		return at + 2, inZlib, true
	case len(h) > 30 && bytes.HasPrefix(h, []byte("PK\x03\x04")) && binary.LittleEndian.Uint16(h[8:]) == 8:
		n := 30 + int(binary.LittleEndian.Uint16(h[26:])) + int(binary.LittleEndian.Uint16(h[28:]))
		return at + n, inZip, n < len(h)
	}
	return 0, 0, false
}

// gzipHead is how long a member's head is (RFC 1952, 2.3).
func gzipHead(h []byte) (n int, ok bool) {
	const (
		checked = 1 << 1
		extra   = 1 << 2
		name    = 1 << 3
		comment = 1 << 4
	)
	flags, n := h[3], 10
	if flags&extra != 0 {
		n += 2 + int(binary.LittleEndian.Uint16(h[n:]))
	}
	for _, text := range []byte{name, comment} {
		if flags&text == 0 {
			continue
		}
		if n >= len(h) {
			return 0, false
		}
		k := bytes.IndexByte(h[n:min(n+4096, len(h))], 0)
		if k < 0 {
			return 0, false
		}
		n += k + 1
	}
	if flags&checked != 0 {
		n += 2
	}
	return n, n < len(h)
}

type scanner struct {
	image    []byte
	inflater io.ReadCloser
	buffer   [64 << 10]byte
}

// inflate tries whether a stream begins at a place, of at most that many bytes of
// content more than its own.
func (s *scanner) inflate(begin int, in container, most int64) (f found, ok bool) {
	source := bytes.NewReader(s.image[begin:])
	if s.inflater == nil {
		s.inflater = flate.NewReader(source)
	} else if err := s.inflater.(flate.Resetter).Reset(source, nil); err != nil {
		return f, false
	}
	var sum hash.Hash32
	switch in {
	case inGzip:
		sum = crc32.NewIEEE()
	case inZlib:
		sum = adler32.New()
	}
	f = found{in: in, Stream: expand.Stream{At: int64(begin)}}
	for {
		n, err := s.inflater.Read(s.buffer[:])
		f.Size += int64(n)
		if sum != nil {
			_, _ = sum.Write(s.buffer[:n]) // never fails
		}
		f.Length = source.Size() - int64(source.Len())
		if f.Size-f.Length > most {
			return f, false
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return f, false
		}
	}
	rest := s.image[f.At+f.Length:]
	switch {
	case f.Size == 0:
		return f, false
	case in == inGzip:
		return f, len(rest) >= 8 && binary.LittleEndian.Uint32(rest) == sum.Sum32() && binary.LittleEndian.Uint32(rest[4:]) == uint32(f.Size)
	case in == inZlib:
		return f, len(rest) >= 4 && binary.BigEndian.Uint32(rest) == sum.Sum32()
	}
	return f, true
}

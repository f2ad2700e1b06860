package find

import (
	"bytes"
	"encoding/binary"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"

	"groundswell/internal/expand"
)

// scanner tries whether streams begin at places of an image.
type scanner struct {
	image  []byte
	reader expand.Reader
	buffer [64 << 10]byte
	parsed expand.Memory // what was read of a stream, for matches far back
	kept   int64         // how many bytes that may be
}

// open tries whether a stream begins at a place, of which what stands in the expanded
// image is at most so many bytes more than its own, and no more than may be kept, if it has to be.
func (s *scanner) open(begin int, in container, most int64) (f found, ok bool) {
	source := bytes.NewReader(s.image[begin:])
	f = found{in: in, Stream: expand.Stream{At: int64(begin), Codec: in.codec()}}
	s.parsed.Reset()
	if err := s.reader.Reset(f.Stream, source, &s.parsed); err != nil {
		return f, false
	}
	var sum hash.Hash32
	switch in {
	case inGzip:
		sum = crc32.NewIEEE()
	case inZlib:
		sum = adler32.New()
	}
	for {
		n, err := s.reader.Read(s.buffer[:])
		if f.Codec != expand.Deflate {
			_, _ = s.parsed.WriteAt(s.buffer[:n], f.Size) // never fails
		}
		f.Size += int64(n)
		if sum != nil {
			_, _ = sum.Write(s.buffer[:n]) // never fails
		}
		f.Length = source.Size() - int64(source.Len()) - s.reader.Ahead()
		if f.Size-f.Length > most || f.Codec != expand.Deflate && f.Size > s.kept {
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

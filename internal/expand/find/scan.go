package find

import (
	"bytes"
	"context"
	"encoding/binary"

	"groundswell/internal/delta"
	"groundswell/internal/expand"
)

// container is what a stream stands in.
type container uint8

const (
	inGzip container = iota
	inZlib
	inZip
	inXz
	inLZMA
	inZstd
)

// codec is that of the streams in it.
func (c container) codec() expand.Codec {
	switch c {
	case inXz:
		return expand.LZMA2
	case inLZMA:
		return expand.LZMA
	case inZstd:
		return expand.Zstd
	}
	return expand.Deflate
}

// found is a stream, and what it stands in.
type found struct {
	expand.Stream
	in container
}

// What begins as a stream may go on for long before it proves to be none. At most vain times
// the image's bytes and vainMore are read of such.
const (
	vain     = 16
	vainMore = 64 << 20
)

// streams finds the compressed streams of an image: the first expand.MaxStreams, and no
// more than the expanded image has room for. What stands for one of them in the expanded
// image is longer by most at most, and not longer than that if it is kept while it is read;
// zero: as long as there is room.
func streams(ctx context.Context, image []byte, most int64) ([]found, error) {
	var list []found
	grown := int64(len(image))
	if most <= 0 {
		most = delta.MaxImage
	}
	s := &scanner{image: image, kept: most}
	var blocks xzBlocks
	inVain := int64(0) // read of what proved to be no stream
	for at := 0; at < len(image) && len(list) < expand.MaxStreams; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		in := inXz
		begin, ok := blocks.next(image)
		if !ok {
			at = next(image, at)
			if begin, in, ok = head(image, at); ok && in == inXz {
				blocks.first(at, image[at:])
			}
		}
		if !ok {
			at++
			continue
		}
		f, ok := s.open(begin, in, min(most, delta.MaxImage-grown))
		if !ok {
			if inVain += f.Length + f.Size; inVain > vain*int64(len(image))+vainMore {
				break // the rest is left as it is
			}
			at++
			continue
		}
		if in == inXz {
			blocks.found(f.Stream)
		}
		if f.Size >= expand.LeastStream {
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
		case 0x1f, 0x78, 'P', 0xfd, 0x5d, 0x28:
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
	case bytes.HasPrefix(h, []byte(xzMagic)):
		n, ok := xzHead(h)
		return at + n, inXz, ok
	case lzmaHead(h):
		return at, inLZMA, true
	case bytes.HasPrefix(h, []byte("\x28\xb5\x2f\xfd")):
		return at, inZstd, true
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

package expand

import (
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"runtime"

	"groundswell/internal/deflate"
	"groundswell/internal/deflateparse"
	"groundswell/internal/lzmaparse"
	"groundswell/internal/zstdparse"
)

// Codec is how a stream is compressed. Of streams of another one than Deflate the parsed
// form stands in the expanded image: their content, and what their compressor made of it.
type Codec uint8

const (
	Deflate       Codec = iota // RFC 1951
	LZMA2                      // as in a block of an xz file
	LZMA                       // a .lzma file
	Zstd                       // a zstd frame, RFC 8878
	DeflateParsed              // as Deflate, of which the parsed form stands there
	codecs
)

// Reader reads what stands in the expanded image for a stream, for one stream after the
// other. It is for one goroutine.
type Reader struct {
	codec   Codec
	deflate io.ReadCloser
	lzma    *lzmaparse.Reader
	zstd    *zstdparse.Reader
	parsed  *deflateparse.Reader
	current io.Reader
}

// Reset makes r begin with a stream, of which it has to know the codec and the effort. back
// reads what was read before, by its offset; nil if nobody keeps it, which only short streams
// do without. It keeps the memory of one codec.
func (r *Reader) Reset(s Stream, src flate.Reader, back io.ReaderAt) error {
	codec := s.Codec
	if codec != r.codec {
		*r = Reader{codec: codec}
	}
	switch codec {
	case Deflate:
		if r.deflate == nil {
			r.deflate = flate.NewReader(src)
		} else if err := r.deflate.(flate.Resetter).Reset(src, nil); err != nil {
			return err
		}
		r.current = r.deflate
	case LZMA2, LZMA:
		if r.lzma == nil {
			r.lzma = &lzmaparse.Reader{}
		}
		kind := lzmaparse.LZMA2
		if codec == LZMA {
			kind = lzmaparse.LZMA
		}
		r.lzma.Reset(src, kind, back)
		r.current = r.lzma
	case Zstd:
		if r.zstd == nil {
			r.zstd = &zstdparse.Reader{}
		}
		r.zstd.Reset(src, back)
		r.current = r.zstd
	case DeflateParsed:
		if r.parsed == nil {
			r.parsed = &deflateparse.Reader{}
		}
		r.parsed.Reset(src, int(s.Effort))
		r.current = r.parsed
	default:
		return fmt.Errorf("%w: codec %d", ErrVersion, codec)
	}
	return nil
}

// Read reads; io.EOF is the end of the stream.
func (r *Reader) Read(p []byte) (int, error) { return r.current.Read(p) }

// Ahead is how many bytes of the source behind what was read so far were taken.
func (r *Reader) Ahead() int64 {
	switch {
	case r.lzma != nil:
		return r.lzma.Ahead()
	case r.parsed != nil:
		return r.parsed.Ahead()
	}
	return 0
}

// forget frees what it has.
func (r *Reader) forget() { *r = Reader{} }

// large is whether it takes half a megabyte and more.
func (c Codec) large() bool { return c == LZMA2 || c == LZMA || c == Zstd }

// mostCollections is how often what is left is collected at once: an image of which the
// streams alternate is not to cost a collection for each of them.
const mostCollections = 16

// collections are those that are left to one that begins with mostCollections.
type collections int

// leave frees a large codec for a large one, so that a device does not hold both; what is
// small, and what comes later, waits for the next collection.
func (r *Reader) leave(next Codec, c *collections) {
	if next != r.codec && next.large() && (r.lzma != nil || r.zstd != nil) {
		r.forget()
		c.collect()
	}
}

func (c *collections) collect() {
	if *c > 0 {
		*c--
		runtime.GC()
	}
}

// Writer makes streams of what stands for them in the expanded image, one after the other.
// It is for one goroutine.
type Writer struct {
	codec   Codec
	deflate *deflate.Writer
	lzma    *lzmaparse.Writer
	zstd    *zstdparse.Writer
	parsed  *deflateparse.Writer
}

// Reset makes w begin a stream, with the memory of its codec alone. back keeps what is too much for its memory, Room(s) bytes.
func (w *Writer) Reset(s Stream, back Scratch) error {
	if s.Codec != w.codec {
		*w = Writer{codec: s.Codec}
	}
	switch s.Codec {
	case Deflate:
		if w.deflate == nil {
			w.deflate = &deflate.Writer{}
		}
		if err := w.deflate.Reset(s.Way); err != nil {
			return fmt.Errorf("%w: %w", ErrVersion, err)
		}
	case LZMA2, LZMA:
		if w.lzma == nil {
			w.lzma = &lzmaparse.Writer{}
		}
		kind := lzmaparse.LZMA2
		if s.Codec == LZMA {
			kind = lzmaparse.LZMA
		}
		if s.Room() == 0 {
			back = nil
		}
		w.lzma.Reset(kind, back)
	case Zstd:
		if w.zstd == nil {
			w.zstd = &zstdparse.Writer{}
		}
		w.zstd.Reset()
	case DeflateParsed:
		if w.parsed == nil {
			w.parsed = &deflateparse.Writer{}
		}
		w.parsed.Reset()
	default:
		return fmt.Errorf("%w: codec %d", ErrVersion, s.Codec)
	}
	return nil
}

// leave is as that of a Reader.
func (w *Writer) leave(next Codec, c *collections) {
	if next != w.codec && next.large() && (w.lzma != nil || w.zstd != nil) {
		*w = Writer{}
		c.collect()
	}
}

// Room is how many bytes of a scratch it takes to make the stream.
func (s Stream) Room() int64 {
	if s.Codec != LZMA2 && s.Codec != LZMA || s.Size <= lzmaparse.Window {
		return 0
	}
	return s.Size
}

// Write appends to dst what of the stream comes out.
func (w *Writer) Write(dst, p []byte) ([]byte, error) {
	var err error
	switch w.codec {
	case Deflate:
		return w.deflate.Write(dst, p), nil
	case Zstd:
		dst, err = w.zstd.Write(dst, p)
	case DeflateParsed:
		dst, err = w.parsed.Write(dst, p)
	default:
		dst, err = w.lzma.Write(dst, p)
	}
	return dst, corrupt(err)
}

// Finish ends it.
func (w *Writer) Finish(dst []byte) ([]byte, error) {
	var err error
	switch w.codec {
	case Deflate:
		return w.deflate.Finish(dst), nil
	case Zstd:
		dst, err = w.zstd.Finish(dst)
	case DeflateParsed:
		dst, err = w.parsed.Finish(dst)
	default:
		dst, err = w.lzma.Finish(dst)
	}
	return dst, corrupt(err)
}

// refusals are those of what stands in the expanded image; other errors are the scratch's.
var refusals = []error{
	lzmaparse.ErrTruncated, lzmaparse.ErrCorrupt, lzmaparse.ErrTooLarge, lzmaparse.ErrTooFar,
	zstdparse.ErrTruncated, zstdparse.ErrCorrupt, zstdparse.ErrTooLarge, zstdparse.ErrTooFar, zstdparse.ErrUnsupported,
	deflateparse.ErrTruncated, deflateparse.ErrCorrupt, deflateparse.ErrTooLarge, deflateparse.ErrTooFar,
}

// corrupt says that what stands in the expanded image makes no stream, if that is so.
func corrupt(err error) error {
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return err
}

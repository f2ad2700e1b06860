package find

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"

	"groundswell/internal/deflate"
	"groundswell/internal/expand"
)

// step is how much content is given to a writer at once, when it is looked at how far a
// stream has come by how much of its content.
const step = 4 << 10

// After patience streams in a row that no way was right for, all ways are tried for one of so
// many, and for those whose content is large, in bytes, of others the likeliest few: trying takes
// as long as compressing a part of it 27 times.
const (
	patience = 8
	few      = 3
	large    = 1 << 20
)

// mark says that a place in the image has been passed when so much of a stream's content
// was written.
type mark struct{ at, content int64 }

// remade is a stream of which it was tried that it can be made again.
type remade struct {
	expand.Stream
	marks []mark
}

// remake keeps the streams that can be made again, with marks for those of ends (places
// in the image, ascending) that lie in them. Parsed forms may be longer by so much room.
func remake(ctx context.Context, image []byte, list []found, ends []int64, most, room int64, workers int) ([]remade, error) {
	out := make([]remade, len(list))
	shared := newForms(room, allEfforts())
	err := divided(ctx, len(list), workers, func() func(context.Context, int) error {
		t := &trier{image: image, ends: ends, most: most, forms: shared}
		return func(ctx context.Context, i int) error {
			ok, err := t.try(ctx, list[i])
			if ok {
				out[i] = remade{t.stream, slices.Clone(t.marks)}
			}
			return err
		}
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(out, func(r remade) bool { return r.Size == 0 }), nil
}

type trier struct {
	image   []byte
	ends    []int64
	most    int64 // how many bytes more than a stream has may stand for it; 0: as many as it takes
	forms   *forms
	writer  expand.Writer
	reader  expand.Reader
	room    expand.Memory
	last    deflate.Way   // that was right: it likely is for the next one
	vain    int           // how many streams there were since, that none was right for
	stream  expand.Stream // the one at hand, as it was made again
	marks   []mark
	content []byte
	made    []byte
}

// ways are all that are tried, the likeliest first.
func ways(last deflate.Way, in container) []deflate.Way {
	var zlib, gzip, other []deflate.Way
	for _, level := range []uint8{9, 6, 1, 8, 7, 5, 4, 3, 2} {
		zlib = append(zlib, deflate.Way{Maker: deflate.Zlib, Level: level, MemLevel: 8})
		gzip = append(gzip, deflate.Way{Maker: deflate.Gzip, Level: level})
		other = append(other, deflate.Way{Maker: deflate.Zlib, Level: level, MemLevel: 9})
	}
	first := []deflate.Way{}
	if last.Valid() {
		first = append(first, last)
	}
	if in == inGzip {
		return slices.Concat(first, gzip, zlib, other)
	}
	return slices.Concat(first, zlib, other, gzip)
}

// try finds out how a stream can be made again.
func (t *trier) try(ctx context.Context, f found) (bool, error) {
	t.stream = f.Stream
	if f.Codec == expand.Deflate {
		ok, err := t.imitate(ctx, f, math.MaxInt)
		if ok || err != nil || !t.parse() {
			return ok, err
		}
	} else if err := t.read(); err != nil {
		return false, err
	}
	return t.make(ctx, math.MaxInt)
}

// read fills content with what stands for the stream in the expanded image.
func (t *trier) read() error {
	t.content = slices.Grow(t.content[:0], int(t.stream.Size))[:t.stream.Size]
	return again(&t.reader, t.image, t.stream, t.content)
}

// imitate finds the way in which a deflate stream was made, or in which its first most bytes
// would be.
func (t *trier) imitate(ctx context.Context, f found, most int) (bool, error) {
	if err := t.read(); err != nil {
		return false, err
	}
	list := ways(t.last, f.in)
	// Where one of many is nobody's work, most are.
	if t.vain++; f.Size < large && t.vain > patience && t.vain%patience != 0 {
		list = list[:few]
	}
	for _, way := range list {
		t.stream.Way = way
		if ok, err := t.make(ctx, most); ok || err != nil {
			t.last, t.vain = way, 0
			return ok, err
		}
	}
	t.stream.Way = deflate.Way{}
	return false, nil
}

// parse lets the parsed form of a deflate stream stand for it, unless it is too long or there
// is no room.
func (t *trier) parse() bool {
	s := t.stream
	s.Codec = expand.DeflateParsed
	s.Effort = t.forms.by(s.Size, func(among []uint8) uint8 { return t.choose(s, among) })
	length, size := t.form(s, s.Length)
	if length != s.Length || !t.forms.take(max(size-s.Size, 0)) {
		return false
	}
	s.Size = size
	t.stream = s
	return true
}

// choose finds out by which effort the form of the first bytes of a stream is shortest.
func (t *trier) choose(s expand.Stream, among []uint8) uint8 {
	best, shortest := uint8(0), int64(math.MaxInt64)
	for _, s.Effort = range among {
		if _, size := t.form(s, sample); size < shortest {
			best, shortest = s.Effort, size
		}
	}
	return best
}

// form puts the parsed form of so much of a stream into content, and returns how many bytes
// the stream has, -1 if it did not come to its end or is too long, and how many the form has.
func (t *trier) form(s expand.Stream, length int64) (read, size int64) {
	source := bytes.NewReader(t.image[s.At : s.At+min(length, s.Length)])
	t.content = t.content[:0]
	err := t.reader.Reset(s, source, nil)
	for err == nil {
		t.content = slices.Grow(t.content, step)
		var n int
		n, err = t.reader.Read(t.content[len(t.content):cap(t.content)])
		t.content = t.content[:len(t.content)+n]
		if grown := int64(len(t.content)) - s.Length; t.most > 0 && grown > t.most {
			break
		}
	}
	if read = -1; err == io.EOF {
		read = source.Size() - int64(source.Len()) - t.reader.Ahead()
	}
	return read, int64(len(t.content))
}

// make tries whether the stream comes out of what stands for it, or the first most bytes of it.
func (t *trier) make(ctx context.Context, most int) (bool, error) {
	s := t.stream
	t.room.Reset()
	if err := t.writer.Reset(s, &t.room); err != nil {
		return false, err
	}
	want := t.image[s.At : s.At+s.Length]
	t.marks = t.marks[:0]
	k, _ := slices.BinarySearch(t.ends, s.At+1)
	came := 0
	for at := 0; at < len(t.content); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(step, len(t.content)-at)
		var err error
		t.made, err = t.writer.Write(t.made[:0], t.content[at:at+n])
		if at += n; at == len(t.content) && err == nil {
			t.made, err = t.writer.Finish(t.made)
		}
		if err != nil {
			return false, fmt.Errorf("make the stream at %d again: %w", s.At, err)
		}
		if !bytes.HasPrefix(want[came:], t.made) {
			return false, nil
		}
		came += len(t.made)
		if came >= most && at < len(t.content) {
			return true, nil
		}
		for ; k < len(t.ends) && t.ends[k] <= s.At+int64(came) && t.ends[k] < s.At+s.Length; k++ {
			t.marks = append(t.marks, mark{t.ends[k], int64(at)})
		}
	}
	return came == len(want), nil
}
